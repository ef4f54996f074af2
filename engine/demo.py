"""The demonstration: shipped priors, and a head that they have never seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.backends.priors import load_priors
from engine.backends.shipped import PriorSet
from engine.errors import InputError
from engine.io.volumes import Volume, load_volume, resample
from engine.report.scales import tissue_box
from engine.sampling.posterior_mean import Prior

#: Side of the demonstration cube, in voxels, and of a voxel, in mm: what the shipped priors were trained on.
SIZE, VOXEL_MM = 64, 3.0
#: Planes of the priors that the demonstration uses.
PLANES = ("axial", "coronal")
#: Voxels around the head that is cut to its tissue.
_MARGIN = 4


def bundle_folder(plane: str) -> Path:
    """Folder of the shipped bundle of a plane, axial, coronal or sagittal, for these voxels."""
    return PriorSet.of("head-t1-3mm").folders[plane]


def head() -> Volume:
    """The MNI152 T1 head that the nilearn package ships, voxels of 1 mm, cut to its tissue and a margin of black.

    Raises
    ------
    InputError
        nilearn is not installed.
    """
    whole = _whole()
    first, last = tissue_box(whole.data, 1.0)
    start = np.maximum(first - _MARGIN, 0)
    inside = tuple(slice(a, b) for a, b in zip(start.tolist(), (last + 1 + _MARGIN).tolist(), strict=True))
    move = np.eye(4)
    move[:3, 3] = start
    return replace(whole, data=np.ascontiguousarray(whole.data[inside]), affine=whole.affine @ move)


def volume() -> Volume:
    """The same head as a cube of 64³ voxels of 3 mm.

    Raises
    ------
    InputError
        nilearn is not installed.
    """
    return resample(_whole(), SIZE, VOXEL_MM)


def _whole() -> Volume:
    try:
        from nilearn import datasets
    except ImportError as error:
        raise InputError(
            "volume", "nilearn, which holds the demonstration's head", "none", "`pip install nilearn` or pass --volume"
        ) from error
    return load_volume(Path(datasets.__file__).parent / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")


def prior(plane: str) -> Prior:
    """The shipped prior of a plane, axial, coronal or sagittal, on CPU cores, for slices of any size."""
    (opened,) = load_priors(bundle_folder(plane))
    return opened


def priors() -> tuple[Prior, Prior]:
    """The shipped axial and coronal priors, in this order, on CPU cores."""
    first, second = PLANES
    return prior(first), prior(second)
