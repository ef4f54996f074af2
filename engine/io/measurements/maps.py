"""Read sensitivities of receiver coils from files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from engine.errors import InputError
from engine.io.guard import guarded
from engine.io.hdf5 import member_of, opened
from engine.io.measurements import cfl
from engine.io.source import Source
from engine.io.volumes.numpy_files import read_npy

#: Far above any sensitivity.
_LARGEST = 1e6
_AXES = "(slices, coils, rows, columns)"


def read_maps(source: Source, shapes: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Read an array of one of these shapes, complex64.

    Parameters
    ----------
    source : Source
        .npy, HDF5 (.h5, .hdf5) with a dataset `maps`, or BART's .cfl in its own order of axes.
    shapes : sequence of (n_slices, n_coils, rows, columns)

    Raises
    ------
    InputError
        Nothing there, unreadable, of another shape or type, not finite, or all zero.
    """
    if not source.path.is_file():
        raise InputError(source.argument, "a .npy, .h5 or .cfl file", f"nothing at '{source.path}'", "check the path")
    if source.path.suffix == ".npy":
        stored = read_npy(source, "c", "a .npy array of complex numbers")
    elif source.path.suffix in cfl.SUFFIXES:
        stored, _ = cfl.stack_of(cfl.read_cfl(source), source)
    elif source.path.suffix in (".h5", ".hdf5"):
        stored = _read_hdf5(source)
    else:
        raise InputError(
            source.argument, ".npy, .h5 or .cfl", f"'{source.path.name}'", "convert the file to one of these"
        )
    if stored.dtype.kind != "c" or stored.dtype.itemsize > 16:
        remedy = "save them as complex64, not as magnitudes or as pairs of numbers"
        raise source.refusal("complex sensitivities", f"{stored.dtype}", remedy)
    if stored.shape not in shapes:
        raise _misfit(stored.shape, shapes, source)
    with np.errstate(over="ignore"):  # what complex64 cannot hold becomes infinite and is refused below
        maps = np.array(stored, np.complex64)
    # Sensitivities are of order one; so compared, NaN is refused as well.
    if not abs(maps).max() <= _LARGEST or not maps.any():
        raise source.refusal(f"sensitivities up to {_LARGEST:g}, some not zero", "others", "estimate them again")
    return maps


def _misfit(shape: tuple[int, ...], shapes: Sequence[tuple[int, ...]], source: Source) -> InputError:
    """The error for maps of another shape, by what is wrong with them: their order, their number, or their size."""
    expected = f"{_AXES} of the k-space file, {' or '.join(map(str, shapes))}"
    for fitting in shapes:
        if sorted(shape) == sorted(fitting):
            order = next(order for order in permutations(range(4)) if tuple(shape[i] for i in order) == fitting)
            return source.refusal(expected, f"{shape}, in another order,", f"save maps.transpose({order})")
    without = "or leave --coil-maps out to have them estimated by ESPIRiT"
    if len(shape) != 4:
        return source.refusal(expected, f"{len(shape)} axes {shape}", f"give each of the four, {without}")
    n_coils = shapes[0][1]
    if shape[1] != n_coils:
        remedy = f"give one map for each of the {n_coils} channels, compressed as the samples are, {without}"
        return source.refusal(expected, f"{shape}, maps of {shape[1]} coils for {n_coils} channels,", remedy)
    if shape[0] not in {one[0] for one in shapes}:
        return source.refusal(expected, f"{shape}, {shape[0]} slices,", f"give maps of every slice, {without}")
    remedy = f"estimate them on the grid of the scan, rows along its readout, {without}"
    return source.refusal(expected, f"{shape}, images of {shape[2]} x {shape[3]},", remedy)


@guarded("an HDF5 file with a dataset 'maps' of complex numbers", "h5py")
def _read_hdf5(source: Source) -> np.ndarray:
    with opened(source) as file:
        return np.asarray(member_of(file, "maps", source)[()])
