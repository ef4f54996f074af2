"""Rows for parallel-beam and fan-beam projection."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import kernels
from benchmarks.lib.rows import OURS, Call, Operator, Row, Setting, Unavailable, load, same
from benchmarks.peers import astra_projector, torch_projector


def operators(setting: Setting) -> list[Operator]:
    """Projection of the setting's images, its adjoint and filtered back-projection; projection under a fan."""
    geometry = kernels.ParallelGeometry.from_views(setting.size, setting.n_views)
    lines = _LazySinogram(setting, geometry)
    forward = [
        _ours(setting, kernels.radon_forward, lambda: setting.images, geometry),
        Row("scikit-image radon", lambda: _skimage_radon(setting, geometry)),
        Row("PyTorch grid_sample", lambda: torch_projector.forward(setting, geometry)),
        Row("ASTRA FP", lambda: _astra(setting, "FP", "linear", geometry, setting.images)),
    ]
    adjoint = [
        _ours(setting, kernels.radon_adjoint, lines, geometry),
        Row("scikit-image iradon, no filter", lambda: _skimage_iradon(setting, geometry, lines(), None)),
        Row("PyTorch autograd", lambda: torch_projector.backward(setting, geometry, lines())),
        Row("ASTRA BP", lambda: _astra(setting, "BP", "linear", geometry, lines())),
    ]
    fbp = [
        _ours(setting, kernels.radon_fbp, lines, geometry),
        Row("scikit-image iradon", lambda: _skimage_iradon(setting, geometry, lines(), "ramp")),
        Row("ASTRA FBP", lambda: _astra(setting, "FBP", "linear", geometry, lines())),
    ]
    if setting.is_cuda:
        forward.append(Row("ASTRA FP3D", lambda: astra_projector.whole_stack(setting, geometry, setting.images, True)))
        adjoint.append(Row("ASTRA BP3D", lambda: astra_projector.whole_stack(setting, geometry, lines(), False)))
    else:
        # Its transpose spreads a ray as wide as a bin: slower, and without the ripples of the other one.
        fbp.append(Row("ASTRA FBP, strips", lambda: _astra(setting, "FBP", "strip", geometry, lines())))
    return [
        Operator("Radon forward", tuple(forward)),
        Operator("Radon adjoint", tuple(adjoint)),
        Operator("filtered back-projection", tuple(fbp)),
        *_fan_operators(setting),
    ]


class _LazySinogram:
    """The sinogram of the setting's images, projected when the first row asks for it."""

    def __init__(self, setting: Setting, geometry: kernels.Geometry):
        self._setting, self._geometry = setting, geometry
        self._lines: np.ndarray | None = None

    def __call__(self) -> np.ndarray:
        if self._lines is None:
            self._lines = kernels.radon_forward(self._setting.images, self._geometry)
        return self._lines


def _ours(
    setting: Setting, function: Callable[..., Any], given: Callable[[], np.ndarray], geometry: kernels.Geometry
) -> Row:
    def prepare() -> Call:
        array = setting.array(given())
        return Call(lambda: function(array, geometry), same)

    return Row(OURS, prepare)


def _skimage(setting: Setting) -> Any:
    if setting.is_cuda:
        raise Unavailable("scikit-image computes on the CPU only")
    return load("skimage.transform")


def _skimage_radon(setting: Setting, geometry: kernels.ParallelGeometry) -> Call:
    transform = _skimage(setting)
    degrees = np.rad2deg(geometry.angles_rad)
    return Call(
        lambda: setting.for_each(lambda image: transform.radon(image, theta=degrees, circle=False), setting.images),
        lambda sinograms: np.stack([sinogram.T for sinogram in sinograms]),
        is_same=_has_skimage_centre(geometry),
        note=f"one call a slice, {setting.threads} at a time",
    )


def _skimage_iradon(
    setting: Setting, geometry: kernels.ParallelGeometry, lines: np.ndarray, filter_name: str | None
) -> Call:
    transform = _skimage(setting)
    degrees = np.rad2deg(geometry.angles_rad)
    columns = [np.ascontiguousarray(sinogram.T) for sinogram in lines]

    def reconstruct(sinogram: np.ndarray) -> np.ndarray:
        return transform.iradon(sinogram, theta=degrees, output_size=geometry.n, filter_name=filter_name, circle=False)

    # Without a filter it interpolates the detector, which is not the transpose of rotating the image.
    scale = 1.0 if filter_name else 2 * geometry.n_views / math.pi
    return Call(
        lambda: setting.for_each(reconstruct, columns),
        lambda images: scale * np.stack(images),
        is_same=bool(filter_name) and _has_skimage_centre(geometry),
        note=f"one call a slice, {setting.threads} at a time",
    )


def _has_skimage_centre(geometry: kernels.ParallelGeometry) -> bool:
    """Whether bin n_bins // 2, about which scikit-image rotates, is the middle of the detector."""
    return geometry.n_bins % 2 == 1


def _astra(
    setting: Setting, algorithm: str, projector: str, geometry: kernels.ParallelGeometry, given: np.ndarray
) -> Call:
    astra = astra_projector.toolbox(setting)
    geometries = astra_projector.parallel(astra, geometry)
    return astra_projector.by_slice(setting, astra, algorithm, projector, geometries, given)


def _fan_operators(setting: Setting) -> list[Operator]:
    """Forward and adjoint under a fan and a flat detector, a bin as wide as a pixel looks from the source."""
    n = setting.size
    source_px, detector_px = 2.0 * n, 1.0 * n
    # The outermost rays touch the circle around the image.
    tangent = n / math.sqrt(2 * source_px**2 - n**2)
    spacing_px = (source_px + detector_px) / source_px
    n_bins = 2 * math.ceil(tangent * source_px) + 1
    angles_rad = np.linspace(0.0, 2 * math.pi, setting.n_views, endpoint=False)
    geometry = kernels.FanGeometry((n, n), angles_rad, source_px, detector_px, n_bins, spacing_px)
    lines = _LazySinogram(setting, geometry)

    def astra(algorithm: str, given: np.ndarray) -> Call:
        toolbox = astra_projector.toolbox(setting)
        geometries = astra_projector.fan(toolbox, n, n_bins, spacing_px, angles_rad, source_px, detector_px)
        return astra_projector.by_slice(setting, toolbox, algorithm, astra_projector.FAN_LINE, geometries, given)

    forward = (
        _ours(setting, kernels.radon_forward, lambda: setting.images, geometry),
        Row("ASTRA FP", lambda: astra("FP", setting.images)),
    )
    adjoint = (
        _ours(setting, kernels.radon_adjoint, lines, geometry),
        Row("ASTRA BP", lambda: astra("BP", lines())),
    )
    return [Operator("fan-beam forward", forward), Operator("fan-beam adjoint", adjoint)]
