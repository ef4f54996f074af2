"""A Cartesian scan in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.io.measurements.kspace_axes import Calibration, FileGrid

if TYPE_CHECKING:
    from engine.volume import Plane


@dataclass(frozen=True)
class KSpace:
    """A Cartesian scan, slice by slice, as `MaskedFourier` or `CoilFourier` would have measured a volume.

    Parameters
    ----------
    data : complex64 (n_slices, h, w) or (n_slices, n_coils, h, w), C-contiguous
        mask · fftshift(fft2(image)), unnormalised; finite, 0 where the mask is; in units of the file.
    mask : float32 (h, w)
        1 where sampled, else 0; of all slices.
    plane : Plane
        The one that cuts the volume into these slices.
    affine : float64 (4, 4)
        Voxel indices of the volume (x right, y front, z top) to mm.
    crop : ((int, int), (int, int))
        First row and the one past the last, first column and the one past the last, of the image that should be shown:
        the scanner's field of view. What lies outside must be reconstructed, for it is measured, and can be dropped
        afterwards.
    source : str
        Where it came from, for the run's record.
    noise_level : float or None
        Standard deviation of white noise in the real and the imaginary part of `data`, where known.
    file_grid : FileGrid or None
        How images on the grid of the file, such as sensitivities, become those of this stack. None: they are.
    calibration : Calibration or None
        Samples of the coils' own, in the layout of `data` and `mask`. None: the scan's centre has to do.
    noise_origin : str
        Where `noise_level` is from, for the run's record; empty where the file states it.
    """

    data: np.ndarray
    mask: np.ndarray
    plane: Plane
    affine: np.ndarray
    crop: tuple[tuple[int, int], tuple[int, int]]
    source: str
    noise_level: float | None = None
    file_grid: FileGrid | None = None
    calibration: Calibration | None = None
    noise_origin: str = ""

    @property
    def is_multicoil(self) -> bool:
        return self.data.ndim == 4

    @property
    def voxel_mm(self) -> np.ndarray:
        """Edge lengths of a voxel along the three axes of the volume, in mm."""
        return np.asarray(np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)))

    def zero_filled(self) -> np.ndarray:
        """Magnitude of the inverse transform, float32 (n_slices, h, w); of the file's coils the root sum of squares."""
        import scipy.fft

        images = np.empty((len(self.data), *self.mask.shape), np.float32)
        # Squares of samples in the units of some scanners are beyond float32.
        peak = np.float32(max(float(abs(part).max()) for part in self.data)) or np.float32(1)
        for part, image in zip(self.data, images, strict=True):
            spectra = np.fft.ifftshift(part / peak, axes=(-2, -1))
            coils = scipy.fft.ifft2(spectra, overwrite_x=True).reshape(-1, *image.shape)
            if self.file_grid is not None:
                coils = self.file_grid.of_channels(coils[None])[0]
            image[:] = peak * np.linalg.norm(coils, axis=0)
        return images

    def cropped(self, volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the part of a volume that should be shown, a view, and its affine."""
        offset = np.zeros(3)
        which = [slice(None)] * 3
        for axis, (first, stop) in zip(self.plane.axes[1:], self.crop, strict=True):
            which[axis], offset[axis] = slice(first, stop), first
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ offset
        return volume[tuple(which)], affine
