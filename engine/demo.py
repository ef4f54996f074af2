"""The demonstration: shipped priors, and a head that they have never seen."""

from __future__ import annotations

from pathlib import Path

from engine.backends.priors import load_priors
from engine.backends.shipped import PriorSet
from engine.errors import InputError
from engine.io.volumes import Volume, load_volume, resample
from engine.sampling.posterior_mean import Prior

#: Side of the demonstration cube, in voxels, and of a voxel, in mm: what the shipped priors were trained on.
SIZE, VOXEL_MM = 64, 3.0
#: Planes of the priors that the demonstration uses.
PLANES = ("axial", "coronal")


def bundle_folder(plane: str) -> Path:
    """Folder of the shipped bundle of a plane, axial, coronal or sagittal, for these voxels."""
    return PriorSet.of("head-t1-3mm").folders[plane]


def volume() -> Volume:
    """The MNI152 T1 head that the nilearn package ships, as a cube of 64³ voxels of 3 mm.

    Raises
    ------
    InputError
        nilearn is not installed.
    """
    try:
        from nilearn import datasets
    except ImportError as error:
        raise InputError(
            "volume", "nilearn, which holds the demonstration's head", "none", "`pip install nilearn` or pass --volume"
        ) from error
    file = Path(datasets.__file__).parent / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    return resample(load_volume(file), SIZE, VOXEL_MM)


def prior(plane: str) -> Prior:
    """The shipped prior of a plane, axial, coronal or sagittal, on CPU cores, for slices of any size."""
    (opened,) = load_priors(bundle_folder(plane))
    return opened


def priors() -> tuple[Prior, Prior]:
    """The shipped axial and coronal priors, in this order, on CPU cores."""
    first, second = PLANES
    return prior(first), prior(second)
