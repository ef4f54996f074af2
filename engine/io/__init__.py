"""Volumes in and out of files."""

from engine.io.resample import resample, resample_isotropic
from engine.io.volumes import Volume, load_volume, save_nifti, save_volume

__all__ = ["Volume", "load_volume", "resample", "resample_isotropic", "save_nifti", "save_volume"]
