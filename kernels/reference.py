"""Slow, readable NumPy twins of every kernel: what the native code is held against.

They compute in float64, loop where a loop is clearer, and check nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.geometry import FanGeometry, Geometry, ParallelGeometry
from kernels.lines import LineFilters
from kernels.philox import NoiseKey
from kernels.profile import Bands

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Complex64 = npt.NDArray[np.complex64]
Corners = list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Float64]]


def _bilinear_corners(geometry: Geometry, angle_rad: float) -> Corners:
    """For one view, the four pixels around every sample of every ray, with their weights, (n_bins, n_samples) each.

    Weights of pixels outside the image are zero, and their indices any valid ones.
    """
    n_rows, n_columns = geometry.shape
    feet, directions = geometry.rays_of(angle_rad)
    along = np.arange(geometry.n_samples) - (geometry.n_samples - 1) / 2
    v, u = (feet[:, axis, None] + along * directions[:, axis, None] for axis in (0, 1))
    row = np.floor(v).astype(np.intp)
    column = np.floor(u).astype(np.intp)
    corners: Corners = []
    for down in (0, 1):
        for right in (0, 1):
            r, c = row + down, column + right
            weight = (1 - np.abs(v - r)) * (1 - np.abs(u - c))
            inside = (r >= 0) & (r < n_rows) & (c >= 0) & (c < n_columns)
            corners.append((r.clip(0, n_rows - 1), c.clip(0, n_columns - 1), np.where(inside, weight, 0.0)))
    return corners


def radon_forward(images: Float32, geometry: Geometry) -> Float32:
    """Interpolate, sum along the rays: see `kernels.radon_forward`."""
    sinogram = np.zeros((images.shape[0], geometry.n_views, geometry.n_bins))
    for view, angle_rad in enumerate(geometry.angles_rad):
        for row, column, weight in _bilinear_corners(geometry, angle_rad):
            sinogram[:, view] += (images[:, row, column] * weight).sum(axis=2)
    return sinogram.astype(np.float32)


def radon_adjoint(sinogram: Float32, geometry: Geometry) -> Float32:
    """Put every sample back where `radon_forward` took it from: see `kernels.radon_adjoint`."""
    images = np.zeros((sinogram.shape[0], *geometry.shape))
    for view, angle_rad in enumerate(geometry.angles_rad):
        for row, column, weight in _bilinear_corners(geometry, angle_rad):
            for image, line in zip(images, sinogram[:, view].astype(np.float64), strict=True):
                np.add.at(image, (row, column), weight * line[:, None])
    return images.astype(np.float32)


def radon_fbp(sinogram: Float32, geometry: Geometry) -> Float32:
    """Filter by a sum over the detector, then interpolate at every pixel: see `kernels.radon_fbp`."""
    images = np.zeros((sinogram.shape[0], *geometry.shape))
    bins = np.arange(geometry.n_bins)
    distance = np.abs(bins[:, None] - bins[None, :])
    odd = distance % 2 == 1
    ramp = np.where(distance == 0, 0.25, 0.0)
    ramp[odd] = -1 / (np.pi * distance[odd]) ** 2
    weighted = sinogram.astype(np.float64)
    if isinstance(geometry, FanGeometry):
        weighted = weighted * np.cos(geometry.bin_angles_rad)
        spacing = geometry.bin_spacing * geometry.source_distance / geometry.source_to_detector
        if geometry.curved:
            gamma = distance * geometry.bin_spacing / geometry.source_to_detector
            ramp[odd] *= (gamma[odd] / np.sin(gamma[odd])) ** 2
    else:
        assert isinstance(geometry, ParallelGeometry)
        spacing = geometry.bin_spacing
    filtered = weighted @ ramp / spacing

    rows, columns = (
        grid - middle
        for grid, middle in zip(
            np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), geometry.centre, strict=True
        )
    )
    for view, angle_rad in enumerate(geometry.angles_rad):
        across = columns * math.cos(angle_rad) - rows * math.sin(angle_rad)
        depth = rows * math.cos(angle_rad) + columns * math.sin(angle_rad)
        place, near = across, np.ones(geometry.shape)
        if isinstance(geometry, FanGeometry):
            away = geometry.source_distance + depth
            if geometry.curved:
                place = np.arctan2(across, away) * geometry.source_to_detector
                near = geometry.source_distance**2 / (across**2 + away**2)
            else:
                place = across / away * geometry.source_to_detector
                near = (geometry.source_distance / away) ** 2
        t = (place - geometry.bin_offset) / geometry.bin_spacing + (geometry.n_bins - 1) / 2
        # One zero bin on each side of the detector: interpolation fades to zero beyond the last bin.
        ends = np.arange(-1, geometry.n_bins + 1)
        for image, line in zip(images, filtered[:, view], strict=True):
            image += near * np.interp(t, ends, np.pad(line, 1))
    return np.asarray(images * np.pi / max(geometry.n_views, 1), dtype=np.float32)


def philox_bits(counters: npt.NDArray[np.uint32], key: tuple[int, int]) -> npt.NDArray[np.uint32]:
    """Ten rounds of multiply, swap and exclusive-or: see `kernels.philox_bits`."""
    mask = 0xFFFFFFFF
    words = np.empty_like(counters)
    for i, counter in enumerate(counters.tolist()):
        c0, c1, c2, c3 = counter
        k0, k1 = key
        for _ in range(10):
            low_product = 0xD2511F53 * c0
            high_product = 0xCD9E8D57 * c2
            c0, c1, c2, c3 = (
                (high_product >> 32) ^ c1 ^ k0,
                high_product & mask,
                (low_product >> 32) ^ c3 ^ k1,
                low_product & mask,
            )
            k0 = (k0 + 0x9E3779B9) & mask
            k1 = (k1 + 0xBB67AE85) & mask
        words[i] = c0, c1, c2, c3
    return words


def _normals_of_voxels(seed: int, step: int, phase: int, voxels: npt.NDArray[np.uint64]) -> Float32:
    """Box-Muller in float64 on the words of every voxel's block, and of them the voxel's."""
    blocks, which = np.unique(voxels // 4, return_inverse=True)
    counters = np.array([[block & 0xFFFFFFFF, block >> 32, step, phase] for block in blocks.tolist()], np.uint32)
    words = philox_bits(counters.reshape(-1, 4), (seed & 0xFFFFFFFF, seed >> 32)).astype(np.float64)
    radius = np.sqrt(-2 * np.log((words[:, 0::2] + 0.5) / 2**32))
    angle_rad = 2 * np.pi * words[:, 1::2] / 2**32
    normals = np.stack([radius * np.cos(angle_rad), radius * np.sin(angle_rad)], axis=-1).reshape(-1, 4)
    return normals[which.reshape(voxels.shape), (voxels % 4).astype(np.intp)].astype(np.float32)


def philox_normal(seed: int, step: int, phase: int, shape: int | Sequence[int], start: int = 0) -> Float32:
    """The normals of voxels start, start + 1, …: see `kernels.philox_normal`."""
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    voxels = np.arange(start, start + math.prod(sizes), dtype=np.uint64)
    return _normals_of_voxels(seed, step, phase, voxels.reshape(sizes))


def philox_slices(key: NoiseKey, shape: Sequence[int]) -> Float32:
    """The normal of every entry's voxel: see `kernels.philox_slices`."""
    voxels = np.full(tuple(shape), key.start, np.uint64)
    for index, stride in zip(np.indices(voxels.shape, np.uint64), key.strides, strict=True):
        voxels += index * np.uint64(stride)
    return _normals_of_voxels(key.seed, key.step, key.phase, voxels)


def _stored(noise: NoiseKey | Float32, shape: tuple[int, ...]) -> Float32:
    return philox_slices(noise, shape) if isinstance(noise, NoiseKey) else noise


def score_norms(x: Float32, x0: Float32, noise: NoiseKey | Float32) -> Float64:
    """Two sums of squares a slice: see `kernels.score_norms`."""
    z = _stored(noise, x.shape)
    return np.array([[np.sum(v.astype(np.float64) ** 2) for v in (x0[i] - x[i], z[i])] for i in range(len(x))]).reshape(
        len(x), 2
    )


def langevin_steps(norms: Float64, groups: Sequence[slice], snr: float, sigma: float) -> tuple[Float32, Float32]:
    """The published step size ε of every group: see `kernels.langevin_steps`."""
    a, b = np.empty(len(norms), np.float32), np.empty(len(norms), np.float32)
    for group in groups:
        mean_score, mean_noise = np.sqrt(norms[group]).mean(axis=0) * [1 / sigma**2, 1]
        epsilon = 2 * (snr * mean_noise / mean_score) ** 2 if mean_score != 0 else 0.0
        a[group], b[group] = epsilon / sigma**2, np.sqrt(2 * epsilon)
    return a, b


def sampler_update(
    x: Float32,
    x0: Float32,
    noise: NoiseKey | Float32 | None,
    a: float | Float32,
    b: float | Float32 | None = None,
    pullback: Float32 | None = None,
    weight: Float32 | None = None,
    out: Float32 | None = None,
) -> Float32:
    """The formula as it stands, in float32: see `kernels.sampler_update`."""

    def of_slices(value: float | Float32) -> Float32:
        return np.broadcast_to(np.float32(value), len(x))[:, None, None]

    result = x + of_slices(a) * (x0 - x)
    if noise is not None and b is not None:
        result = result + of_slices(b) * _stored(noise, x.shape)
    if pullback is not None and weight is not None:
        result = result - of_slices(weight) * pullback
    if out is None:
        return result
    out[...] = result
    return out


def kspace_residual(
    spectrum: Complex64, measured: Complex64, weight: Float32, scale: float = 1.0, noise: Complex64 | None = None
) -> tuple[Float64, Float64]:
    """The formulas as they stand, in complex128: see `kernels.kspace_residual`."""
    d = weight.astype(np.float64) * spectrum.astype(np.complex128) - measured
    r = scale * d - (0 if noise is None else noise)
    spectrum[...] = scale * weight * r
    return (np.abs(r) ** 2).sum(axis=(1, 2, 3)), (np.abs(d) ** 2).sum(axis=(1, 2, 3))


def kspace_residual_half(
    spectrum: Complex64,
    n_full: int,
    measured: Complex64,
    weight: Float32,
    scale: float = 1.0,
    noise: Complex64 | None = None,
) -> tuple[Float64, Float64]:
    """Complete the spectrum, take the residual, keep the Hermitian part's half: see `kernels.kspace_residual_half`."""
    whole = _whole(np.stack([spectrum, spectrum], axis=1), n_full)[:, None].astype(np.complex64)
    residuals = kspace_residual(
        whole,
        _whole(measured, n_full)[:, None],
        _whole(weight, n_full).real,
        scale,
        None if noise is None else _whole(noise, n_full)[:, None],
    )
    z = whole[:, 0].astype(np.complex128)
    hermitian = (z + np.roll(z[:, ::-1, ::-1], (1, 1), axis=(1, 2)).conj()) / 2
    spectrum[...] = hermitian[..., : n_full // 2 + 1]
    return residuals


def _whole(pairs: Complex64 | Float32, n_full: int) -> Any:
    """Whole spectra (..., n_rows, n_full) of pairs (..., 2, n_rows, n_full // 2 + 1), sample by sample."""
    n_rows = pairs.shape[-2]
    whole = np.zeros((*pairs.shape[:-3], n_rows, n_full), np.complex128)
    for row in range(n_rows):
        for column in range(n_full // 2 + 1):
            whole[..., row, column] = pairs[..., 0, row, column]
            if 0 < column < n_full - column:
                whole[..., -row % n_rows, n_full - column] = pairs[..., 1, row, column].conj()
    return whole


def coil_expand(images: Float32 | Complex64, maps: Complex64) -> Complex64:
    """Every image times every sensitivity: see `kernels.coil_expand`."""
    return np.asarray(images[:, None] * maps.astype(np.complex128), dtype=np.complex64)


def coil_combine(coils: Complex64, maps: Complex64, real: bool) -> Any:
    """The sum over coils of conjugate sensitivity times image: see `kernels.coil_combine`."""
    combined: Any = (maps.conj() * coils.astype(np.complex128)).sum(axis=1)
    return combined.real.astype(np.float32) if real else combined.astype(np.complex64)


def banded_sum(x: Float32, bands: Bands, axis: int) -> Float32:
    """The whole matrix times the axis: see `kernels.banded_sum`."""
    product = np.tensordot(bands.matrix.astype(np.float64), x.astype(np.float64), axes=(1, axis))
    return np.moveaxis(product, 0, axis).astype(np.float32)


def filter_lines(x: Float32, filters: LineFilters, axis: int) -> Float32:
    """Every line by itself, padded with zeros: see `kernels.filter_lines`."""
    volume = np.moveaxis(x.astype(np.float64), axis, -1)
    lines = volume.reshape(-1, filters.n_in)
    out = np.zeros((len(lines), filters.n_out))
    for line, weights, first, result in zip(lines, filters.weights, filters.firsts, out, strict=True):
        for k, weight in enumerate(weights.astype(np.float64)):
            for i in range(filters.n_out):
                if 0 <= i + first + k < filters.n_in:
                    result[i] += weight * line[i + first + k]
    return np.moveaxis(out.reshape(*volume.shape[:-1], -1), -1, axis).astype(np.float32)
