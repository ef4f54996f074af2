"""Read sensitivities of receiver coils from files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.errors import InputError
from engine.io.guard import guarded
from engine.io.hdf5 import member_of, opened
from engine.io.source import Source
from engine.io.volumes.numpy_files import read_npy

#: Far above any sensitivity.
_LARGEST = 1e6


def read_maps(source: Source, shapes: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Read an array of one of these shapes, complex64.

    Parameters
    ----------
    source : Source
        .npy, or HDF5 (.h5, .hdf5) with a dataset `maps`.
    shapes : sequence of (n_slices, n_coils, rows, columns)

    Raises
    ------
    InputError
        Nothing there, unreadable, of another shape or type, not finite, or all zero.
    """
    if not source.path.is_file():
        raise InputError(source.argument, "a .npy or .h5 file", f"nothing at '{source.path}'", "check the path")
    if source.path.suffix == ".npy":
        stored = read_npy(source, "c", "a .npy array of complex numbers")
    elif source.path.suffix in (".h5", ".hdf5"):
        stored = _read_hdf5(source)
    else:
        raise InputError(source.argument, ".npy or .h5", f"'{source.path.name}'", "convert the file to one of these")
    if stored.shape not in shapes or stored.dtype.kind != "c" or stored.dtype.itemsize > 16:
        expected = f"complex {' or '.join(map(str, shapes))}"
        got = f"{stored.dtype} {stored.shape}"
        raise source.refusal(expected, got, "give one sensitivity a coil and pixel, in the layout of the k-space file")
    with np.errstate(over="ignore"):  # what complex64 cannot hold becomes infinite and is refused below
        maps = np.array(stored, np.complex64)
    # Sensitivities are of order one; so compared, NaN is refused as well.
    if not abs(maps).max() <= _LARGEST or not maps.any():
        raise source.refusal(f"sensitivities up to {_LARGEST:g}, some not zero", "others", "estimate them again")
    return maps


@guarded("an HDF5 file with a dataset 'maps' of complex numbers", "h5py")
def _read_hdf5(source: Source) -> np.ndarray:
    with opened(source) as file:
        return np.asarray(member_of(file, "maps", source)[()])
