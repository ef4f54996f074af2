"""Projections as files and folders hold them, before anything is done to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.errors import InputError
from engine.io.measurements.arrays import SUFFIXES, read_array
from engine.io.measurements.exchange import read_exchange
from engine.io.source import Source
from engine.io.volumes.dicom_files import is_series
from engine.io.volumes.reading import read as read_volume

_HDF5 = (".h5", ".hdf5", ".hdf", ".nxs")


@dataclass(frozen=True, eq=False)
class Projections:
    """What is stored.

    Parameters
    ----------
    values : array of any shape and type
        Whoever asks checks both.
    views_first : bool
        Whether its first axis counts views where nothing else tells.
    flat, dark : float64 (n_slices, n_bins) or None
        Of the open beam, and of none.
    angles_deg : float64 (n,) or None
    """

    values: np.ndarray
    views_first: bool = False
    flat: np.ndarray | None = None
    dark: np.ndarray | None = None
    angles_deg: np.ndarray | None = None


def read_projections(source: Source, dataset: str | None = None) -> Projections:
    """Read a file of projections or sinograms, or a folder of them.

    Parameters
    ----------
    source : Source
    dataset : str or None
        Of a file of several arrays; stated, it is read as it is, in whatever layout the file has.

    Raises
    ------
    InputError
        Nothing there, another kind of file, unreadable, pictures of two sizes.
    """
    path, suffix = source.path, source.path.suffix.lower()
    if path.is_dir() and any(path.iterdir()):
        if is_series(path, source.argument):
            raise source.refusal("a folder of .tif or .npy projections", "a DICOM series", "export the projections")
        return Projections(read_volume(source, 0).data, views_first=True)
    if suffix not in SUFFIXES or not path.is_file():
        got = "another" if path.is_file() else "nothing"
        raise InputError(
            source.argument,
            "a file .npy, .npz, .h5 or .tif, or a folder of .tif or .npy",
            f"{got} at '{path}'",
            "check it",
        )
    if suffix in _HDF5 and dataset is None and (exchange := read_exchange(source)) is not None:
        return Projections(exchange.data, True, exchange.flat, exchange.dark, exchange.angles_deg)
    return Projections(read_array(source, dataset, "sinogram"))
