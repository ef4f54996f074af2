"""Read one array from a MATLAB file."""

from __future__ import annotations

import math

import numpy as np

from engine.io.checks import MAX_DEFLATE_RATIO, check_room
from engine.io.guard import allow, guarded
from engine.io.measurements.arrays import read_hdf5
from engine.io.source import Source
from engine.io.volumes.numpy_files import chosen_name

#: Bytes in which a file says what it is.
_START = 128


def read_mat(source: Source, dataset: str | None, default: str, n_axes: tuple[int, ...]) -> np.ndarray:
    """Read an array with its axes in MATLAB's order; whoever asks checks its type.

    Parameters
    ----------
    source : Source
        Of version 7.3, which is HDF5, or of an earlier one.
    dataset : str or None
        Name of the variable. None: the only one of numbers, or that called `default`.
    default : str
    n_axes : tuple of int
        How many axes it may have, where it has to be found.

    Raises
    ------
    InputError
        Unreadable, or no such variable.
    """
    with source.reading("a MATLAB file"), source.path.open("rb") as stream:
        is_hdf5 = stream.read(_START).startswith(b"MATLAB 7.3")
    if is_hdf5:
        # MATLAB stores the first axis fastest, HDF5 the last.
        return read_hdf5(source, dataset, default, n_axes).T
    return _read_version_5(source, dataset, default)


@guarded("a MATLAB file with an array of numbers", "scipy.io")
def _read_version_5(source: Source, dataset: str | None, default: str) -> np.ndarray:
    import scipy.io

    with source.path.open("rb") as file:
        shapes = {name: shape for name, shape, kind in scipy.io.whosmat(file) if kind in ("single", "double")}
        name = chosen_name(list(shapes), dataset, default, source)
        # Its type is not told; a number takes a byte at least, and 16 at most.
        check_room(shapes[name], np.dtype(np.uint8), source, MAX_DEFLATE_RATIO)
        allow(16 * math.prod(shapes[name]), source)
        file.seek(0)
        return np.asarray(scipy.io.loadmat(file, variable_names=[name])[name])
