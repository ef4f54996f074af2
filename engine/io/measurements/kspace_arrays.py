"""Read k-space from files that hold an array and nothing that says what its axes count."""

from __future__ import annotations

import re

import numpy as np

from engine.errors import InputError
from engine.io.guard import allow
from engine.io.measurements import cfl
from engine.io.measurements.arrays import read_hdf5
from engine.io.measurements.kspace_axes import Samples, affine_of, centred_inverse
from engine.io.measurements.kspace_mask import alike
from engine.io.measurements.mat import read_mat
from engine.io.measurements.mri_header import DEFAULT_ORIENTATION
from engine.io.source import Source
from engine.io.volumes.numpy_files import read_npy, read_npz

SUFFIXES = (".npy", ".npz", ".mat", *cfl.SUFFIXES)
#: In which axes of length 1 behind the last do not count.
_PADDED = (".mat", *cfl.SUFFIXES)
_DEFAULT = "kspace"
#: A slice of one coil has two.
_N_AXES = (2, 3, 4)
_EXAMPLES = {
    2: "--axes rows,columns",
    3: "--axes slices,rows,columns or --axes coils,rows,columns",
    4: "--axes slices,coils,rows,columns",
}
_NAMES = ("slices", "partitions", "coils", "rows", "columns")


def read_arrays(source: Source, orientation: str | None, dataset: str | None, axes: tuple[str, ...]) -> Samples:
    """Read an array with axes that are stated, or BART's.

    Voxels count as 1 mm. A partition direction is transformed, and partitions become slices.

    Parameters
    ----------
    source : Source
        With one of `SUFFIXES`, or HDF5.
    orientation : str or None
        Where slices, rows and columns count to. None: `DEFAULT_ORIENTATION`.
    dataset : str or None
        Name of the array in a file of several. None: the only one, or that called `kspace`.
    axes : tuple of str
        What the array's axes count, in their order: rows and columns, and where there are any coils, and slices or
        partitions. Empty: BART's order for its own files.

    Raises
    ------
    InputError
        Unreadable, not complex, no axes stated, or others than the array has; partitions that are not sampled alike.
    """
    values, names = _named(_values(source, dataset), axes, source)
    allow(8 * values.size, source)
    is_slab = "partitions" in names
    order = [names.index(name) for name in _NAMES if name in names]
    data = np.empty([values.shape[axis] for axis in order], np.complex64)
    with np.errstate(over="ignore"):  # what complex64 cannot hold becomes infinite and is reported later
        data[...] = values.transpose(order)
    if not is_slab and "slices" not in names:
        data = data[None]
    if "coils" in names and data.shape[1] == 1:
        data = data[:, 0]
    if is_slab:
        alike(data, source, "partition", "transform the partitions first and call them slices")
        for part in (data,) if data.ndim == 3 else data.swapaxes(0, 1):
            part[:] = centred_inverse(part, axis=0)
    letters = DEFAULT_ORIENTATION if orientation is None else orientation
    n_slices, (rows, columns) = len(data), data.shape[-2:]
    affine = affine_of(letters, (n_slices, rows, columns), (1.0, 1.0, 1.0))
    return Samples(data, None, False, affine, rows, ((0, rows), (0, columns)))


def _named(values: np.ndarray, axes: tuple[str, ...], source: Source) -> tuple[np.ndarray, tuple[str, ...]]:
    """The array, and what each of its axes counts."""
    suffix, shape = source.path.suffix.lower(), values.shape
    if not axes and suffix in cfl.SUFFIXES:
        stack, is_slab = cfl.stack_of(values, source)
        return stack, ("partitions" if is_slab else "slices", "coils", "rows", "columns")
    if not axes:
        got = f"an array {shape} in '{source.path}', which does not say"
        remedy = f"state it, such as by {_EXAMPLES.get(len(shape), _EXAMPLES[4])}"
        raise InputError("axes", f"what the axes count, of {', '.join(_NAMES)}", got, remedy)
    if suffix in _PADDED:
        while len(shape) > len(axes) and shape[-1] == 1:
            shape = shape[:-1]
        shape = (*shape, *(1 for _ in range(len(axes) - len(shape))))
    is_whole = {"rows", "columns"} <= set(axes) <= set(_NAMES) and not {"slices", "partitions"} <= set(axes)
    if not is_whole or len(set(axes)) < len(axes):
        expected = "rows and columns, where there are any coils, and slices or partitions"
        raise InputError("axes", expected, f"'{','.join(axes)}'", f"give each once, such as {_EXAMPLES[4]}")
    if len(shape) != len(axes) or 0 in shape:
        got = f"'{','.join(axes)}' for {values.shape} in '{source.path}'"
        raise InputError("axes", f"one for each of {len(shape)} axes, none empty", got, "name each, or take a part")
    return values.reshape(shape), axes


def _values(source: Source, dataset: str | None) -> np.ndarray:
    """The array that is stored, of complex numbers."""
    suffix = source.path.suffix.lower()
    if suffix in (".npy", *cfl.SUFFIXES) and dataset is not None:
        raise InputError("dataset", f"none for '{source.path}', a file of one array", f"'{dataset}'", "drop it")
    if suffix == ".npy":
        values = read_npy(source, "c", "a .npy array of complex numbers")
    elif suffix == ".npz":
        values = read_npz(source, dataset, _DEFAULT)
    elif suffix == ".mat":
        values = read_mat(source, dataset, _DEFAULT, _N_AXES)
    elif suffix in cfl.SUFFIXES:
        values = cfl.read_cfl(source)
    else:
        values = read_hdf5(source, dataset, _DEFAULT, _N_AXES)
    # MATLAB's complex numbers in HDF5.
    if values.dtype.names == ("real", "imag") and {values.dtype[part].kind for part in ("real", "imag")} == {"f"}:
        pairs, values = values, np.empty(values.shape, np.complex64)
        with np.errstate(over="ignore"):
            values.real, values.imag = pairs["real"], pairs["imag"]
    if values.dtype.kind != "c" or values.dtype.itemsize > 16:
        remedy = "save them as complex numbers, or name the array with --dataset"
        raise source.refusal("complex samples", re.sub("[^a-z0-9]", "", values.dtype.name), remedy)
    return values
