"""Rows for what reads and writes every voxel once: thick slices, normal draws, the sampler's update."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import kernels
from benchmarks.lib.rows import OURS, Call, Operator, Row, Setting, Unavailable, load, same
from engine.operators import ThickSlices

#: Thin slices in a thick one; the blocks lie along the rows of the stack's slices.
FACTOR = 4
_FLOAT = 4
_BIT_GENERATORS = ("SFC64", "PCG64", "Philox")
_A, _B = 0.25, -0.5


def operators(setting: Setting) -> list[Operator]:
    """All operators of this file, on arrays as large as the setting's images."""
    return [*_thick_slices(setting), _normals(setting), _update(setting)]


def _thick_slices(setting: Setting) -> list[Operator]:
    n, h, w = setting.shape
    operator = ThickSlices((h, w), FACTOR, axis=1)
    thin, thick = setting.images, np.ascontiguousarray(setting.images[:, ::FACTOR])
    shape = (n, h // FACTOR, FACTOR, w)

    def ours_mean() -> Call:
        x = setting.array(thin)
        return Call(lambda: operator.apply(x), same)

    def ours_transpose() -> Call:
        y = setting.array(thick)
        return Call(lambda: operator.adjoint(y), same)

    def array_mean() -> Call:
        x = setting.array(thin)
        return Call(lambda: x.reshape(shape).mean(axis=2), same)

    def array_transpose() -> Call:
        y = setting.array(thick)
        return Call(lambda: (y / np.float32(FACTOR)).repeat(FACTOR, axis=1), same)

    def torch_mean() -> Call:
        torch, x = setting.torch(), setting.tensor(thin)
        return Call(lambda: torch.nn.functional.avg_pool2d(x, (FACTOR, 1)), same)

    def torch_transpose() -> Call:
        torch, y = setting.torch(), setting.tensor(thick)
        return Call(lambda: torch.repeat_interleave(y / FACTOR, FACTOR, dim=1), same)

    library = "CuPy" if setting.is_cuda else "NumPy"
    n_bytes = _FLOAT * (thin.size + thick.size)
    formula = f"4 B x voxels x (1 + 1/{FACTOR}): one stack read, one written"
    mean = (Row(OURS, ours_mean), Row(f"{library} reshape, mean", array_mean), Row("PyTorch avg_pool2d", torch_mean))
    transpose = (
        Row(OURS, ours_transpose),
        Row(f"{library} repeat", array_transpose),
        Row("PyTorch repeat_interleave", torch_transpose),
    )
    return [
        Operator("thick slices", mean, n_bytes, formula),
        Operator("thick slices, transpose", transpose, n_bytes, formula),
    ]


def _normals(setting: Setting) -> Operator:
    rows = [Row(OURS, lambda: _our_normals(setting))]
    if setting.is_cuda:
        rows.append(Row("CuPy random", lambda: _cupy_normals(setting)))
    else:
        rows += [Row(f"NumPy {name}", partial(_numpy_normals, setting, name)) for name in _BIT_GENERATORS]
        rows.append(Row("NumPy SFC64, threads", lambda: _numpy_normals_in_threads(setting)))
    rows.append(Row("PyTorch randn", lambda: _torch_normals(setting)))
    n_bytes = _FLOAT * setting.images.size
    return Operator("standard normals", tuple(rows), n_bytes, "4 B x voxels: written")


def _our_normals(setting: Setting) -> Call:
    if setting.is_cuda:
        cupy = load("cupy")
        return Call(lambda: kernels.philox_normal(0, 0, 0, setting.shape, library=cupy))
    return Call(lambda: kernels.philox_normal(0, 0, 0, setting.shape))


def _cupy_normals(setting: Setting) -> Call:
    cupy = load("cupy")
    return Call(lambda: cupy.random.standard_normal(setting.shape, dtype=cupy.float32))


def _numpy_normals(setting: Setting, name: str) -> Call:
    generator = np.random.Generator(getattr(np.random, name)(0))
    return Call(lambda: generator.standard_normal(setting.shape, dtype=np.float32), note="one thread")


def _numpy_normals_in_threads(setting: Setting) -> Call:
    if setting.threads == 1:
        raise Unavailable("one thread: the row above")
    seeds = np.random.SeedSequence(0).spawn(setting.threads)
    generators = [np.random.Generator(np.random.SFC64(seed)) for seed in seeds]
    ends = np.linspace(0, setting.images.size, setting.threads + 1).astype(int)

    def fill() -> np.ndarray:
        out = np.empty(setting.shape, np.float32)
        flat = out.reshape(-1)

        def part(k: int) -> None:
            generators[k].standard_normal(dtype=np.float32, out=flat[ends[k] : ends[k + 1]])

        setting.for_each(part, range(setting.threads))
        return out

    return Call(fill, note=f"{setting.threads} generators, each its own part")


def _torch_normals(setting: Setting) -> Call:
    torch = setting.torch()
    return Call(lambda: torch.randn(setting.shape, device=setting.device))


def _update(setting: Setting) -> Operator:
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal(setting.shape, dtype=np.float32) for _ in range(3)]

    def ours() -> Call:
        x, x0, z = (setting.array(array) for array in arrays)
        return Call(lambda: kernels.sampler_update(x, x0, z, _A, _B), same)

    def expression() -> Call:
        x, x0, z = (setting.array(array) for array in arrays)
        a, b = np.float32(_A), np.float32(_B)
        return Call(lambda: x + a * (x0 - x) + b * z, same)

    def torch_lerp() -> Call:
        torch = setting.torch()
        x, x0, z = (setting.tensor(array) for array in arrays)
        return Call(lambda: torch.lerp(x, x0, _A).add_(z, alpha=_B), same)

    rows: list[Any] = [
        Row(OURS, ours),
        Row("CuPy expression" if setting.is_cuda else "NumPy expression", expression),
        Row("PyTorch lerp, add_", torch_lerp),
    ]
    n_bytes = 4 * _FLOAT * setting.images.size
    return Operator(
        "update x + a (x0 - x) + b z", tuple(rows), n_bytes, "16 B x voxels: three arrays read, one written"
    )
