"""Members of HDF5 files that lie in the file itself, and are no larger than it can hold.

HDF5 can point to other files (external and soft links, external storage, virtual datasets), load code for unknown
compressions, and claim samples that were never stored. Each of these is refused before it is read. For use by guarded
readers: all else that can be wrong with such a file is left to its library.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.io.guard import allow
from engine.io.source import Source

#: Samples over what is stored of them: measured numbers hardly shrink, and nobody skips more than 99 lines of 100.
MAX_RATIO = 100
#: A header of ISMRMRD has some ten thousand characters.
_MAX_TEXT = 2**20
#: HDF5's numbers of filters. Up to the last one they are its own; beyond, code would be loaded. LZF is h5py's own.
_SHUFFLE, _FLETCHER32, _LAST_OWN, _LZF = 2, 3, 255, 32000


def opened(source: Source) -> Any:
    """The `h5py.File` at `source`, for reading; a context manager.

    Raises
    ------
    InputError
        Another program has locked the file, or one that wrote it never closed it.
    """
    import h5py

    try:
        return h5py.File(source.path, "r")
    except OSError as error:
        # HDF5 has no numbers for its errors that h5py would keep.
        if "unable to lock file" in str(error):
            remedy = "wait until that program has closed it, or read a copy of it"
            raise source.refusal("a file that no other program is writing", "one that is locked", remedy) from error
        if "already open for write" in str(error):
            remedy = "once nothing writes to it clear that mark with `h5clear -s` of the HDF5 tools"
            raise source.refusal("a file that was closed after writing", "the mark of a writer", remedy) from error
        raise


def has(group: Any, name: str) -> bool:
    """Whether a group has a member of that name; where it points is not looked at."""
    return bool(group.id.links.exists(name.encode()))


def member_of(group: Any, name: str, source: Source) -> Any:
    """Return a group or dataset that lies in the group itself, a dataset after all checks of its storage.

    Raises
    ------
    InputError
        Not there, a link that could lead elsewhere, or a dataset whose samples are stored in other files, compressed by
        an unknown method, or claimed to be more than the file can hold.
    """
    import h5py

    if not has(group, name):
        raise source.refusal(f"'{name}'", "none", "check how the file was written")
    if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise source.refusal(f"'{name}' itself", "a link", "write a file that holds its data")
    member = group[name]
    if isinstance(member, h5py.Dataset):
        _check_storage(member, name, source)
    elif not isinstance(member, h5py.Group):
        raise source.refusal(f"'{name}' as group or dataset", type(member).__name__, "write the file again")
    return member


def whole_of(dataset: Any, source: Source) -> np.ndarray:
    """Return all samples of a dataset from `member_of`.

    Raises
    ------
    InputError
        Chunks that were never written, where HDF5 reads zeros.
    """
    if dataset.chunks is not None:
        n_chunks = math.prod(-(-side // chunk) for side, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        n_stored = dataset.id.get_num_chunks()
        if n_stored != n_chunks:
            raise source.refusal(f"all of {n_chunks} chunks", f"{n_stored}", "finish writing it")
    return np.asarray(dataset[()])


def text_of(dataset: Any, name: str, source: Source) -> bytes:
    """Return the only string of a dataset, of at most 1 MiB."""
    import h5py

    if h5py.check_string_dtype(dataset.dtype) is None or math.prod(dataset.shape) != 1:
        got = f"{dataset.shape} of {dataset.dtype.kind}"
        raise source.refusal(f"one text in '{name}'", got, "write its header again")
    value = np.asarray(dataset[()], object).item()
    text = value.encode() if isinstance(value, str) else bytes(value)
    if len(text) > _MAX_TEXT:
        raise source.refusal(f"at most {_MAX_TEXT} bytes in '{name}'", f"{len(text)}", "write its header again")
    return text


def attribute_of(file: Any, name: str, shape: tuple[int, ...], source: Source) -> np.ndarray | None:
    """Return an attribute of numbers with that shape as float64; None where there is none."""
    if name not in file.attrs:
        return None
    stored = file.attrs.get_id(name)
    if stored.shape != shape or stored.dtype.kind not in "iuf":
        raise source.refusal(f"an attribute '{name}' {shape} of numbers", f"{stored.shape}", "save the file again")
    value = np.asarray(file.attrs[name], np.float64)
    if not np.isfinite(value).all():
        raise source.refusal(f"a finite attribute '{name}'", "NaN or infinite values", "save the file again")
    return value


def word_of(file: Any, name: str, source: Source) -> str | None:
    """Return an attribute that is one text; None where there is none."""
    if name not in file.attrs:
        return None
    value = file.attrs[name]
    if not isinstance(value, (str, bytes)):
        raise source.refusal(f"a text as attribute '{name}'", type(value).__name__, "save the file again")
    return value if isinstance(value, str) else bytes(value).decode("ascii", "replace")


def _check_storage(dataset: Any, name: str, source: Source) -> None:
    import h5py

    created = dataset.id.get_create_plist()
    # Before the shape is asked for: that of a virtual dataset is looked up in the files that it points to.
    if created.get_layout() == h5py.h5d.VIRTUAL or created.get_external_count():
        raise source.refusal(f"'{name}' stored in the file", "parts of other files", "write a file that holds its data")
    filters = [created.get_filter(i)[0] for i in range(created.get_nfilters())]
    if any(number > _LAST_OWN and number != _LZF for number in filters):
        expected = f"'{name}' compressed as HDF5 can itself, or by lzf"
        raise source.refusal(expected, f"its filters {filters[:8]}", "repack the file")
    if dataset.shape is None:
        raise source.refusal(f"samples in '{name}'", "a dataset without space", "write the file again")
    n_bytes = math.prod(dataset.shape) * dataset.id.get_type().get_size()
    allow(n_bytes, source)
    if dataset.chunks is not None:
        _check_chunks(dataset, name, filters, source)
    n_stored = min(dataset.id.get_storage_size(), source.path.stat().st_size)
    if n_bytes > n_stored * (MAX_RATIO if dataset.chunks is not None else 1):
        expected = f"{n_bytes} bytes for the shape {dataset.shape} of '{name}'"
        raise source.refusal(expected, f"{n_stored} stored", "write the file again")


def _check_chunks(dataset: Any, name: str, filters: list[int], source: Source) -> None:
    """Refuse chunks that are not compressed and of another size: HDF5 would go on with what lies behind in memory."""
    n_expected = math.prod(dataset.chunks) * dataset.id.get_type().get_size()
    chunks: list[Any] = []
    # Its answer None means: go on.
    dataset.id.chunk_iter(chunks.append)
    for chunk in chunks:
        # A chunk can be stored without one of its filters.
        used = {number for i, number in enumerate(filters) if not chunk.filter_mask >> i & 1}
        n = chunk.size - 4 * (_FLETCHER32 in used)
        if used <= {_SHUFFLE, _FLETCHER32} and n != n_expected:
            expected, more = f"chunks of {n_expected} bytes in '{name}'", "fewer" if n < n_expected else "more"
            raise source.refusal(expected, f"one of {more}", "write the file again")
