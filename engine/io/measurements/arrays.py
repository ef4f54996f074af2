"""Read one array from a file that may hold several."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.io.guard import guarded
from engine.io.hdf5 import member_of, opened, whole_of
from engine.io.source import Source
from engine.io.volumes import tiff
from engine.io.volumes.numpy_files import chosen_name, read_npy, read_npz

_OF_ONE_ARRAY = (".npy", ".tif", ".tiff")
SUFFIXES = (*_OF_ONE_ARRAY, ".npz", ".h5", ".hdf5", ".hdf", ".nxs")
#: Groups and datasets of an HDF5 file that are looked at.
_MAX_OBJECTS = 1000


def read_array(source: Source, dataset: str | None, default: str) -> np.ndarray:
    """Read an array of any shape and type; whoever asks checks both.

    Parameters
    ----------
    source : Source
        With one of `SUFFIXES`; pages of a TIFF become the first axis.
    dataset : str or None
        Name of the array in a .npz or HDF5 file. None: the only one (of HDF5: of two or three axes), or that called
        `default`.
    default : str

    Raises
    ------
    InputError
        Unreadable, no such array, a name for a file that has none, or samples that were never written.
    """
    suffix = source.path.suffix.lower()
    if suffix in _OF_ONE_ARRAY and dataset is not None:
        raise source.refusal("no dataset for files of one array", "a name", "remove it")
    if suffix == ".npy":
        return read_npy(source)
    if suffix == ".npz":
        return read_npz(source, dataset, default)
    if suffix in _OF_ONE_ARRAY:
        return tiff.read(source, is_volume=False)[0]
    return read_hdf5(source, dataset, default)


@guarded("an HDF5 file with an array of numbers", "h5py")
def read_hdf5(source: Source, dataset: str | None, default: str, n_axes: tuple[int, ...] = (2, 3)) -> np.ndarray:
    """Read an array of any shape and type from an HDF5 file.

    Parameters
    ----------
    source : Source
    dataset : str or None
        Its name, with those of its groups. None: the only one, or that called `default`.
    default : str
    n_axes : tuple of int
        How many axes it may have, where it has to be found.

    Raises
    ------
    InputError
        Unreadable, no such array, or samples that were never written.
    """
    import h5py

    with opened(source) as file:
        if dataset is None:
            dataset = default if default in list(file) else chosen_name(_arrays(file, n_axes), None, default, source)
        member: Any = file
        for part in dataset.strip("/").split("/"):
            if not isinstance(member, h5py.Group):
                raise source.refusal("a dataset", "a longer name than there is", "check its name")
            member = member_of(member, part, source)
        if not isinstance(member, h5py.Dataset):
            raise source.refusal("a dataset", "a group", "add the name of the dataset in it")
        return whole_of(member, source)


def _arrays(file: Any, n_axes: tuple[int, ...]) -> list[str]:
    """Names of the arrays of so many axes in an HDF5 file."""
    import h5py

    names: list[str] = []
    n_objects = 0

    def visit(name: str, member: Any) -> bool | None:  # by hard links only: other links are not followed
        nonlocal n_objects
        n_objects += 1
        # A virtual dataset's shape is looked up in other files.
        if isinstance(member, h5py.Dataset) and (member.is_virtual or len(member.shape or ()) in n_axes):
            names.append(name)
        return True if n_objects >= _MAX_OBJECTS else None

    file.visititems(visit)
    return names
