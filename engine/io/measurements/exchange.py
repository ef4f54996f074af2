"""Projections in the ``exchange`` layout of HDF5: that of Data Exchange, TomoBank, dxchange and tomopy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.io.guard import guarded
from engine.io.hdf5 import has, member_of, opened, whole_of, word_of
from engine.io.source import Source

_GROUP = "exchange"


@dataclass(frozen=True, eq=False)
class Exchange:
    """What the group holds.

    Parameters
    ----------
    data : array (n_views, n_slices, n_bins) of real numbers
        As the detector counted.
    flat, dark : float64 (n_slices, n_bins) or None
        Means of the frames with an open beam, and of those without any.
    angles_deg : float64 (n,) or None
    """

    data: np.ndarray
    flat: np.ndarray | None
    dark: np.ndarray | None
    angles_deg: np.ndarray | None


@guarded("an HDF5 file of projections", "h5py")
def read_exchange(source: Source) -> Exchange | None:
    """Read the projections of a file in this layout; None for a file that has no such group.

    Parameters
    ----------
    source : Source
        An HDF5 file: ``exchange/data`` (views, rows of the detector, bins), ``data_white`` and ``data_dark`` (frames,
        rows, bins), and ``theta``, in degrees unless its attribute ``units`` says radians.

    Raises
    ------
    InputError
        A group without projections; a dataset of other axes, or with samples elsewhere; angles that are not finite.
    """
    with opened(source) as file:
        if not has(file, _GROUP):
            return None
        group = member_of(file, _GROUP, source)
        data = _array(group, "data", source)
        if data is None:
            remedy = "name the array with --dataset, or export the projections again"
            raise source.refusal(f"projections as '{_GROUP}/data'", f"{sorted(group)[:8]} in the group", remedy)
        if data.ndim != 3 or min(data.shape) < 1:
            got = f"shape {data.shape}"
            raise source.refusal(f"'{_GROUP}/data' of views, rows and bins", got, "name another one with --dataset")
        flat, dark = (_field(group, name, data.shape, source) for name in ("data_white", "data_dark"))
        return Exchange(data, flat, dark, _angles(group, source))


def _array(group: Any, name: str, source: Source) -> np.ndarray | None:
    """A dataset of real numbers; None where there is none."""
    import h5py

    if not has(group, name):
        return None
    member = member_of(group, name, source)
    if not isinstance(member, h5py.Dataset) or member.dtype.kind not in "iuf":
        raise source.refusal(f"real numbers in '{_GROUP}/{name}'", "another thing", "export the projections again")
    return whole_of(member, source)


def _field(group: Any, name: str, shape: tuple[int, ...], source: Source) -> np.ndarray | None:
    """The mean of frames of the detector."""
    frames = _array(group, name, source)
    if frames is None or not frames.size:
        return None
    frames = frames[None] if frames.ndim == 2 else frames
    if frames.ndim != 3 or frames.shape[1:] != shape[1:]:
        expected = f"frames of {shape[1]} rows and {shape[2]} bins in '{_GROUP}/{name}', as the projections have"
        raise source.refusal(expected, f"shape {frames.shape}", "do without them by --flats none")
    return np.asarray(frames.mean(axis=0, dtype=np.float64))


def _angles(group: Any, source: Source) -> np.ndarray | None:
    theta = _array(group, "theta", source)
    if theta is None or not theta.size:
        return None
    angles = theta.astype(np.float64).ravel()
    if not np.isfinite(angles).all():
        n_bad = int((~np.isfinite(angles)).sum())
        remedy = "state them with --turn, or in a file with --geometry"
        raise source.refusal(f"finite angles in '{_GROUP}/theta'", f"{n_bad} NaN or infinite ones", remedy)
    units = word_of(group["theta"], "units", source) or ""
    return angles * (180 / math.pi) if units.lower().startswith("rad") else angles
