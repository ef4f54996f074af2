"""Read untrusted files with the libraries of their formats in a child process, within limits of memory and time.

Libraries hang, crash or take all memory on some damaged files. In a child that costs nothing but the child: its end
becomes the one sentence of any file that cannot be read. The child is a new interpreter. A fork would copy a process
with threads (BLAS, ONNX Runtime, MPI, Ray), whose locks it cannot use; `multiprocessing` would run the user's main
script again. Starting it and importing a library takes longer than reading a small file, so it waits a while for the
next one.

Memory is limited on Linux alone: macOS does not enforce the limit. Time is limited everywhere.
"""

from __future__ import annotations

import atexit
import fcntl
import importlib
import mmap
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from engine.errors import InputError
from engine.io.source import Source

P = ParamSpec("P")
T = TypeVar("T")

#: More than any scan: 8 GiB.
MAX_BYTES = 2**33
#: Time for a small file, many times what it takes, and bytes a second from a slow disk, or of slow decompression.
SECONDS, BYTES_PER_SECOND = 8.0, 1e7
#: Memory beside the file's and the data's: tables and buffers of libraries.
SPARE_BYTES = 2**28
#: For which a child waits for another file.
IDLE_SECONDS = 10.0
#: Before anything else is imported, and from the parent's path alone: the working directory may hold anything.
_START = "import sys; sys.path[:] = sys.argv[1:]; from engine.io import guard; guard.serve()"
#: No thread pools in the child, and no code that HDF5 or ITK would load for compressions and formats.
_ENVIRONMENT = {
    **{"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"},
    **{"HDF5_PLUGIN_PRELOAD": "::", "ITK_AUTOLOAD_PATH": ""},
}
#: Begins a request: its length. Begins an answer: place and length of what was pickled, then arrays, each at a multiple
#: of a cache line.
_LENGTH, _HEAD, _ALIGNED = struct.Struct("<Q"), struct.Struct("<QQ"), 64


class _Child:
    """State of a process that reads files for another one: bytes of the file that is read, and seconds for it."""

    n_bytes = 0
    seconds = 0.0


_child: _Child | None = None


def guarded(
    expected: str, *libraries: str
) -> Callable[[Callable[Concatenate[Source, P], T]], Callable[Concatenate[Source, P], T]]:
    """Make a reader run in a child process.

    Parameters
    ----------
    expected : str
        What the file should be, for the error.
    *libraries : str
        Modules that the child imports before its limits count.

    Returns
    -------
    decorator
        Of a function at the top of a module, whose first argument is a `Source`, a file or a folder. Arguments and
        result are pickled; arrays of the result come back without a copy, in memory that the child has filled. Once the
        function knows how many bytes it will return, it calls `allow`.

    Raises
    ------
    InputError
        From the function; and for any other exception in it, or where the library crashes, takes more memory than twice
        the size of the file and of the data, or more time than it could need.
    """

    def decorator(read: Callable[Concatenate[Source, P], T]) -> Callable[Concatenate[Source, P], T]:
        @wraps(read)
        def guarded_read(source: Source, /, *args: P.args, **kwargs: P.kwargs) -> T:
            if _child is None:
                call = (read.__module__, read.__qualname__, (source, *args), kwargs)
                answer = _answer(pickle.dumps((call, libraries, SECONDS, os.getcwd())), source, expected)
                if isinstance(answer, Exception):
                    raise answer
                return answer  # type: ignore[no-any-return]
            with source.reading(expected), _limited(source):
                return read(source, *args, **kwargs)

        return guarded_read

    return decorator


def allow(n_bytes: int, source: Source) -> None:
    """Allow a reader the memory and the time for that many bytes of data, as its file claims them.

    Raises
    ------
    InputError
        More than `MAX_BYTES`.
    """
    if n_bytes > MAX_BYTES:
        raise source.refusal(f"at most {MAX_BYTES} bytes of data", f"{n_bytes}", "split or crop it")
    if _child is not None:
        _set_limits(_child.n_bytes + n_bytes, _child.seconds)


class _Process:
    """A child process, and the socket over which it is asked."""

    def __init__(self) -> None:
        self.is_new = True
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, *sys.path],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, **_ENVIRONMENT},
            )

    def ask(self, request: bytes) -> tuple[bool, memoryview | None]:
        """Whether it began to read, and its answer, mapped into memory; None where it ended."""
        began = False
        try:
            self.socket.sendall(_LENGTH.pack(len(request)) + request)
            began = bool(self.socket.recv(1))
            _, (reply, *_), *_ = socket.recv_fds(self.socket, 1, 1)
        except (OSError, ValueError):  # the end of the connection, with an error or with no descriptor
            self.end()
            return began, None
        except BaseException:
            self.process.kill()
            self.end()
            raise
        self.is_new = False
        with os.fdopen(reply, "r+b") as file:
            # Shared: arrays can be changed in place, and no page exists twice.
            return began, memoryview(mmap.mmap(file.fileno(), 0))

    def end(self) -> None:
        self.socket.close()
        self.process.wait()


_process: _Process | None = None
_lock = threading.Lock()


def _forget() -> None:
    """A forked process has none: its parent goes on with the one that there is."""
    global _process, _lock
    _process, _lock = None, threading.Lock()


def _end() -> None:
    if _process is not None:
        _process.process.kill()
        _process.end()


os.register_at_fork(after_in_child=_forget)
atexit.register(_end)


def _answer(request: bytes, source: Source, expected: str) -> Any:
    """Have a child answer a request."""
    global _process
    with _lock:
        while True:
            process, _process = _process or _Process(), None
            began, content = process.ask(request)
            if content is not None:
                _process = process
                break
            code = process.process.returncode
            # One that has read other files may have waited long enough, or suffer from them.
            if process.is_new or (began and code == -signal.SIGALRM):
                if not began:
                    raise RuntimeError(f"the process that reads files ended at its start with code {code}")
                raise source.unreadable(expected, _reason(code))
    place, length = _HEAD.unpack_from(content)
    spans, pickled = pickle.loads(content[place : place + length])
    return pickle.loads(pickled, buffers=[content[first:stop] for first, stop in spans])


def _reason(returncode: int) -> str:
    name = signal.Signals(-returncode).name if returncode < 0 else f"exit code {returncode}"
    return "it takes too long" if name == "SIGALRM" else f"its library ends with {name}"


def serve() -> None:
    """Answer requests: what the child runs."""
    global _child
    _child = _Child()
    # The parent, which gets these as well, decides what becomes of the child.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = socket.socket(fileno=fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3))
    # What libraries print or warn of is said in one sentence.
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    warnings.simplefilter("ignore")
    while True:
        connection.settimeout(IDLE_SECONDS)
        try:
            head = connection.recv(_LENGTH.size, socket.MSG_WAITALL)
        except TimeoutError:
            return
        if len(head) < _LENGTH.size:
            return
        connection.settimeout(None)
        request = connection.recv(_LENGTH.unpack(head)[0], socket.MSG_WAITALL)
        reply = _reply_to(request, connection)
        socket.send_fds(connection, [b"a"], [reply])
        os.close(reply)


def _reply_to(request: bytes, connection: socket.socket) -> int:
    """Answer a request in a file in memory; its descriptor."""
    assert _child is not None
    answer: Any
    try:
        (module, name, args, kwargs), libraries, _child.seconds, folder = pickle.loads(request)
        os.chdir(folder)
        for library in libraries:
            importlib.import_module(library)
        read = getattr(importlib.import_module(module), name)
        connection.sendall(b"b")
        answer = read(*args, **kwargs)
    except InputError as error:
        answer = error
    except Exception:
        answer = RuntimeError(f"the process that reads files failed:\n{traceback.format_exc()}")
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(answer, protocol=5, buffer_callback=buffers.append)
    reply = os.memfd_create("tpdm") if hasattr(os, "memfd_create") else os.dup(tempfile.TemporaryFile().fileno())
    spans, place = [], _ALIGNED
    for buffer in buffers:
        view = buffer.raw()
        spans.append((place, place + view.nbytes))
        _write(reply, view, place)
        place += -(-view.nbytes // _ALIGNED) * _ALIGNED
    last = pickle.dumps((spans, pickled))
    _write(reply, memoryview(last), place)
    _write(reply, memoryview(_HEAD.pack(place, len(last))), 0)
    return reply


def _write(file: int, content: memoryview, place: int) -> None:
    # A single call writes at most 2 GiB.
    while content:
        n = os.pwrite(file, content, place)
        content, place = content[n:], place + n


@contextmanager
def _limited(source: Source) -> Iterator[None]:
    assert _child is not None
    files = source.path.iterdir() if source.path.is_dir() else [source.path]
    _child.n_bytes = sum(file.stat().st_size for file in files if file.is_file())
    _set_limits(_child.n_bytes, _child.seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _set_limits(n_bytes: int, seconds: float) -> None:
    """Limit this process to as much memory as it has now and twice that many bytes, and to the time for them."""
    # Its default action ends the process wherever it is, in Python or not.
    signal.setitimer(signal.ITIMER_REAL, seconds + n_bytes / BYTES_PER_SECOND)
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return
    most = int(statm.read_text().split()[0]) * resource.getpagesize() + SPARE_BYTES + 2 * n_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
