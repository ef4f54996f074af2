"""Whatever a library does with a file, the process that asked for it lives, and gets data or one sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest

from engine.errors import InputError
from engine.io import guard
from engine.io.guard import MAX_BYTES, SPARE_BYTES
from engine.io.source import Source
from tests.engine.io import readers
from tests.refusals import one_sentence

ROOT = Path(__file__).resolve().parents[3]
linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux limits a process's memory")


@pytest.fixture
def source(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(1000))
    return Source(tmp_path / "a.bin", "volume")


def refused(*words):
    return one_sentence("volume", "which cannot be read", *words)


def process_of(source):
    return readers.numbers(source, (1,))["process"]


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_and_can_be_written_to(source, order):
    answer = readers.numbers(source, (3, 4, 5), order)
    assert (answer["name"], answer["empty"].size) == ("a.bin", 0)
    np.testing.assert_array_equal(answer["count"], np.arange(60).reshape((3, 4, 5), order=order))
    answer["count"] += 1
    assert answer["count"].sum() == 60 * 61 / 2
    assert answer["process"] != os.getpid()


def test_one_process_reads_several_files(source):
    assert process_of(source) == process_of(source)
    with one_sentence("volume", "KeyError"):
        readers.raise_error(source, "a. b\n c")
    assert process_of(source) == process_of(source)


def test_a_library_that_hangs_is_ended(source, monkeypatch):
    monkeypatch.setattr(guard, "SECONDS", 0.3)
    for reader in (readers.hang, readers.sleep):
        with refused("it takes too long"):
            reader(source)
    assert process_of(source)


def test_time_grows_with_the_file_and_with_what_it_claims(source, monkeypatch):
    monkeypatch.setattr(guard, "SECONDS", 0.3)
    with refused("it takes too long"):
        readers.work(source, 3.0, 0)
    assert readers.work(source, 1.0, 10**8) == "done"
    source.path.write_bytes(bytes(10**8))
    assert readers.work(source, 1.0, 0) == "done"


@pytest.mark.parametrize("is_new", [True, False])
def test_a_library_that_crashes_is_a_sentence(source, is_new):
    for reader, arguments, word in (
        (readers.crash, (), "SIGSEGV"),
        (readers.end_with, (signal.SIGKILL,), "SIGKILL"),
        (readers.end_with, (signal.SIGABRT,), "SIGABRT"),
        (readers.leave, (), "exit code 3"),
    ):
        if is_new:
            guard._end()
            guard._forget()
        else:
            process_of(source)
        with refused(word):
            reader(source, *arguments)
    assert process_of(source)


def test_a_file_does_not_suffer_from_those_before_it(source):
    assert [readers.once(source) for _ in range(3)] == ["read"] * 3


def test_a_process_that_has_gone_is_replaced(source):
    os.kill(process_of(source), signal.SIGKILL)
    assert process_of(source)


@linux
def test_memory_is_limited_to_twice_what_is_claimed(source):
    n = SPARE_BYTES + 2**26
    with refused("MemoryError"):
        readers.take(source, n)
    assert readers.take(source, n, 2**26) == n
    with refused("MemoryError"):
        readers.take(source, n + 2**28, 2**26)
    with refused("MemoryError"):
        readers.take(source, 2**50, MAX_BYTES)
    with one_sentence("volume", f"at most {MAX_BYTES}"):
        readers.take(source, 1, MAX_BYTES + 1)
    # The limit of one file does not count for the next.
    assert process_of(source)


def test_paths_are_those_of_the_asking_process(source, monkeypatch, tmp_path):
    (tmp_path / "inner").mkdir()
    for folder in (tmp_path, tmp_path / "inner"):
        monkeypatch.chdir(folder)
        assert readers.folder_and_path(source)[0] == str(folder)


def test_nothing_is_said_but_the_sentence(source, capfd):
    assert readers.talk(source) == "read"
    with refused("SIGSEGV"):
        readers.crash(source)
    assert capfd.readouterr() == ("", "")


def test_threads_take_turns(source):
    answers = []
    threads = [
        threading.Thread(target=lambda n=n: answers.append(readers.numbers(source, (n,))["count"])) for n in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, answers)) == list(range(1, 9))


def test_a_forked_process_has_its_own(source):
    ours = process_of(source)
    ends = os.pipe()
    fork = os.fork()
    if fork == 0:
        os.write(ends[1], str(process_of(source)).encode())
        guard._end()
        os._exit(0)
    os.waitpid(fork, 0)
    assert os.read(ends[0], 20) != str(ours).encode()
    assert process_of(source) == ours


def test_an_interrupted_reader_is_ended(source):
    def interrupt(*_):
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        child = process_of(source)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            readers.sleep(source)
    finally:
        signal.signal(signal.SIGALRM, old)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert process_of(source)


def run(script, **options):
    """What a program of its own prints."""
    command = [sys.executable, "-c", textwrap.dedent(script)]
    options = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, **options}
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, **options).stdout


READ = """
    from pathlib import Path
    from engine.io.source import Source
    from tests.engine.io import readers
    print(readers.numbers(Source(Path(__import__("sys").executable), "volume"), (3,))["count"].sum())
"""


@pytest.mark.parametrize("closed", [(0,), (0, 1, 2)], ids=str)
def test_closed_streams_do_no_harm(tmp_path, closed):
    script = READ.replace("print(", f"Path({str(tmp_path / 'out')!r}).write_text(str(") + ")"
    run(script.replace(".sum())\n)", ".sum()))"), preexec_fn=lambda: [os.close(stream) for stream in closed])
    assert (tmp_path / "out").read_text() == "3.0"


def test_no_code_of_the_working_directory_is_run(tmp_path):
    for name in ("numpy", "pickle", "socket", "engine", "site", "encodings"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('run')")
    assert run(f"import sys\nsys.path[0] = {str(ROOT)!r}\n" + textwrap.dedent(READ), cwd=tmp_path) == "3.0\n"


def test_importing_readers_loads_no_library_of_a_format():
    script = """
        import sys
        import engine.io.files, engine.io.volumes, engine.io.volumes.dicom
        import engine.io.measurements.kspace, engine.io.measurements.sinogram, engine.io.measurements.maps
        print({"nibabel", "pydicom", "h5py", "tifffile", "ismrmrd"} & set(sys.modules))
    """
    assert run(script) == "set()\n"


def crashing_sinogram(path):
    """A file that the library crashes on: of a sequence of variable length, the byte that says of which kind."""
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("sinogram", (1, 2, 3), h5py.vlen_dtype(np.float32))
        for place in np.ndindex(1, 2, 3):
            dataset[place] = np.ones(3, np.float32)
    content = bytearray(path.read_bytes())
    whole = bytes([0x19, 0, 0, 0, 16, 0, 0, 0, 0x11])
    content[content.index(whole) + 1] = 6
    path.write_bytes(content)
    return path


def test_a_file_on_which_hdf5_crashes_is_refused(tmp_path):
    from engine.io.measurements.sinogram import load_sinogram

    path = crashing_sinogram(tmp_path / "a.h5")
    code = f"import h5py; h5py.File({str(path)!r})['sinogram'][()]"
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode == -signal.SIGSEGV
    with one_sentence("sinogram", "SIGSEGV"):
        load_sinogram(path, tmp_path / "a.json")


def test_a_file_on_which_hdf5_hangs_is_refused(tmp_path, monkeypatch):
    from engine.io.measurements.kspace import load_kspace

    with h5py.File(tmp_path / "a.h5", "w", libver="earliest") as file:
        file["kspace"] = np.ones((2, 8, 6), np.complex64)
        file["ismrmrd_header"] = "x" * 170
    content = bytearray((tmp_path / "a.h5").read_bytes())
    # Size of the first object in the heap of texts: where the next one begins there is nothing, of no length.
    place = content.index(b"GCOL") + 24
    assert content[place] == 170
    content[place] = 189
    (tmp_path / "a.h5").write_bytes(content)
    monkeypatch.setattr(guard, "SECONDS", 2.0)
    with one_sentence("kspace", "it takes too long"):
        load_kspace(tmp_path / "a.h5")


def test_a_command_ends_with_a_sentence_and_code_2(tmp_path, capfd):
    from engine.run import main

    path = crashing_sinogram(tmp_path / "a.h5")
    (tmp_path / "a.json").write_text("{}")
    options = ["--task", "svct", "--sinogram", str(path), "--geometry", str(tmp_path / "a.json")]
    assert main([*options, "--out", str(tmp_path / "out")]) == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_errors_are_those_of_the_process_that_asked(source):
    with pytest.raises(InputError) as caught:
        readers.raise_error(source, "x")
    assert (caught.value.argument, caught.value.remedy) == ("volume", "save it again")
