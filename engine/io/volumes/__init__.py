"""Volumes in and out of files, a format a module."""

from engine.io.volumes.resampling import resample, resample_isotropic
from engine.io.volumes.volume import Volume, load_volume, save_nifti, save_volume

__all__ = ["Volume", "load_volume", "resample", "resample_isotropic", "save_nifti", "save_volume"]
