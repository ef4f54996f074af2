"""Check the records of an ISMRMRD file's acquisitions, and read their heads, before any samples are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.io.hdf5_heap import lengths_of
from engine.io.source import Origin

#: What the library in C calls some fields.
_OTHER_NAMES = {" measurement_uid": "measurement_uid"}


def heads_of(dataset: Any, origin: Origin) -> np.ndarray:
    """Return the heads of all acquisitions, each of which has as many samples as its head claims.

    Parameters
    ----------
    dataset : h5py.Dataset
        Checked, `data` of the file.
    origin : Origin

    Returns
    -------
    ismrmrd.hdf5.acquisition_header_dtype (n_acquisitions,)
        As in the file.

    Raises
    ------
    InputError
        Records of another type, or of samples that are not there.
    """
    from ismrmrd.hdf5 import acquisition_dtype

    with origin.reading("acquisitions as 'data'"):
        if dataset.ndim != 1 or not _is_like(dataset.dtype, acquisition_dtype):
            raise origin.refusal("a list of acquisitions as 'data'", f"{dataset.shape}", "convert the scan again")
        # First, for whole records pass through the library, samples too, where only their heads are asked for.
        lengths = _lengths(dataset, origin)
        heads = np.asarray(dataset.fields("head")[:])
    _check_lengths(heads, lengths, origin)
    return heads


def _is_like(found: np.dtype, expected: np.dtype) -> bool:
    """Whether a type has the fields of another one in their order; gaps do not count."""
    if not expected.fields or not found.fields:
        return found == expected
    names = tuple(_OTHER_NAMES.get(name, name) for name in found.names or ())
    return names == expected.names and all(
        _is_like(one, other) for (one, *_), (other, *_) in zip(_in_order(found), _in_order(expected), strict=True)
    )


def _in_order(record: np.dtype) -> list[Any]:
    """What NumPy knows of each field: its type, then its offset."""
    fields: Mapping[str, Any] = record.fields or {}
    return [fields[name] for name in record.names or ()]


def _lengths(dataset: Any, origin: Origin) -> dict[str, np.ndarray]:
    """How many float32 the file holds of each field of variable length, int64 (n_acquisitions,)."""
    import h5py

    kinds = {name: h5py.check_vlen_dtype(dataset.dtype[name]) for name in ("traj", "data")}
    # Samples are pairs of numbers to the library in C, and numbers to that in Python.
    if kinds["traj"] != np.float32 or not (kinds["data"] == np.float32 or _is_pair(kinds["data"])):
        raise origin.refusal("samples of variable length", f"{dataset.dtype.names}", "convert the scan again")
    record = dataset.id.get_type()
    sizes = {record.get_member_offset(record.get_member_index(n.encode())): kinds[n].itemsize for n in kinds}
    lengths = lengths_of(dataset, sizes, origin)
    return {n: length * (kind.itemsize // 4) for (n, kind), length in zip(kinds.items(), lengths, strict=True)}


def _is_pair(kind: np.dtype | None) -> bool:
    """Whether a type is float32 and float32, the real and the imaginary part, without a gap."""
    if kind is None or kind.itemsize != 8:
        return False
    return kind == np.complex64 or [part[:2] for part in _in_order(kind)] == [(np.float32, 0), (np.float32, 4)]


def _check_lengths(heads: np.ndarray, lengths: dict[str, np.ndarray], origin: Origin) -> None:
    """Compare what each acquisition holds with what its header claims."""
    n_samples = heads["number_of_samples"].astype(np.int64)
    n_floats = {
        "data": 2 * n_samples * heads["active_channels"],
        "traj": n_samples * heads["trajectory_dimensions"],
    }
    for name, expected in n_floats.items():
        found = lengths[name]
        if (found != expected).any():
            j = int(np.flatnonzero(found != expected)[0])
            raise origin.refusal(
                f"{expected[j]} numbers as '{name}' of acquisition {j}", f"{found[j]}", "convert the scan again"
            )
