"""Volumes in and out of files."""

from engine.io.resample import resample
from engine.io.volumes import Volume, load_volume, save_nifti

__all__ = ["Volume", "load_volume", "resample", "save_nifti"]
