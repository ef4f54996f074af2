"""Rows for the gradient Aᵀ(A x − y) of masked Fourier transforms: single-coil and multi-coil MRI."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.lib.rows import OURS, Call, Operator, Row, Setting, fastest, load, same
from engine.operators import CoilFourier, LinearOperator, MaskedFourier

N_COILS = 8

_AXES = (-2, -1)
_SAMPLED = 0.25


def operators(setting: Setting) -> list[Operator]:
    """Gradients of the setting's images; what was measured is another stack."""
    mask = (np.random.default_rng(0).random(setting.shape[1:]) < _SAMPLED).astype(np.float32)
    maps = coil_maps(N_COILS, setting.size)
    single = [
        Row(OURS, lambda: _ours(setting, MaskedFourier(setting.array(mask)))),
        Row("SigPy", lambda: _sigpy_single(setting, mask)),
        Row("PyTorch", lambda: _torch_single(setting, mask)),
        Row("CuPy" if setting.is_cuda else "SciPy", lambda: _fft_module(setting, mask)),
    ]
    coils = [
        Row(OURS, lambda: _ours_coils(setting, mask, maps)),
        Row("SigPy Sense", lambda: _sigpy_coils(setting, mask, maps)),
        Row("PyTorch", lambda: _torch_coils(setting, mask, maps)),
    ]
    return [
        Operator("single-coil gradient", tuple(single)),
        Operator(f"{N_COILS}-coil gradient", tuple(coils)),
    ]


def coil_maps(n_coils: int, size: int) -> np.ndarray:
    """Smooth sensitivities of coils around the slice: complex64 (n_coils, size, size)."""
    at = 2 * (np.arange(size) + 0.5) / size - 1
    angles_rad = 2 * np.pi * np.arange(n_coils)[:, None, None] / n_coils
    rows, columns = at[:, None] - 1.2 * np.sin(angles_rad), at[None, :] - 1.2 * np.cos(angles_rad)
    maps = np.exp(-(rows**2 + columns**2) / 2 + 1j * (angles_rad + rows * columns))
    return np.asarray(maps / np.sqrt((np.abs(maps) ** 2).sum(axis=0)), dtype=np.complex64)


def _truth(setting: Setting) -> np.ndarray:
    """The stack that was measured; the images are the current estimate."""
    return np.ascontiguousarray(setting.images[:, ::-1, ::-1])


def _ours(setting: Setting, operator: LinearOperator) -> Call:
    x = setting.array(setting.images)
    fidelity = operator.fidelity(operator.apply(setting.array(_truth(setting))))
    return Call(lambda: fidelity(x, slice(0, len(x)))[0], same)


def _ours_coils(setting: Setting, mask: np.ndarray, maps: np.ndarray) -> Call:
    return _ours(setting, CoilFourier(setting.array(mask), setting.array(maps)))


def _sigpy_single(setting: Setting, mask: np.ndarray) -> Call:
    linop = load("sigpy").linop
    weights = setting.array(mask)
    if setting.is_cuda:
        stack = linop.Multiply(setting.shape, weights) * linop.FFT(setting.shape, axes=_AXES)
        return _sigpy_call(setting, lambda: stack, is_stack=True)
    shape = setting.shape[1:]
    return _sigpy_call(setting, lambda: linop.Multiply(shape, weights) * linop.FFT(shape), is_stack=False)


def _sigpy_coils(setting: Setting, mask: np.ndarray, maps: np.ndarray) -> Call:
    linop, mri = load("sigpy").linop, load("sigpy.mri")
    weights, sensitivities = setting.array(mask), setting.array(maps)
    if setting.is_cuda:
        # What `Sense` makes of one image, for the stack: a GPU wants more work at a time.
        images = (setting.n_slices, 1, *setting.shape[1:])
        stack = linop.Multiply(images, sensitivities)
        stack = linop.Multiply(stack.oshape, weights) * linop.FFT(stack.oshape, axes=_AXES) * stack
        stack = stack * linop.Reshape(images, setting.shape)
        return _sigpy_call(setting, lambda: stack, is_stack=True)
    return _sigpy_call(setting, lambda: mri.linop.Sense(sensitivities, weights=weights), is_stack=False)


def _sigpy_call(setting: Setting, build: Callable[[], Any], is_stack: bool) -> Call:
    """Prepare A.H * (A * x - y): for the whole stack, or by slices on all threads, since its transforms use one."""
    x, truth = setting.array(setting.images), setting.array(_truth(setting))
    # Centred and unitary: another phase, which cancels, and another scale.
    scale = setting.size**2
    operator = build()
    if is_stack:
        y = operator * truth
        return Call(lambda: operator.H * (operator * x - y), lambda result: scale * result, note="the stack at once")
    measured = [operator * image for image in truth]

    def gradient(k: int) -> Any:
        return operator.H * (operator * x[k] - measured[k])

    return Call(
        lambda: setting.for_each(gradient, range(setting.n_slices)),
        lambda results: scale * np.stack(results),
        note=f"one call a slice, {setting.threads} at a time",
    )


def _torch_single(setting: Setting, mask: np.ndarray) -> Call:
    torch = setting.torch()
    # Shifted once, so that no call has to.
    weights = setting.tensor(np.fft.ifftshift(mask))
    x, y = setting.tensor(setting.images), weights * torch.fft.fft2(setting.tensor(_truth(setting)))
    # norm="forward" leaves the inverse unscaled.
    return Call(lambda: torch.fft.ifft2(weights * torch.fft.fft2(x) - y, norm="forward").real, same)


def _torch_coils(setting: Setting, mask: np.ndarray, maps: np.ndarray) -> Call:
    torch = setting.torch()
    weights, sensitivities = setting.tensor(np.fft.ifftshift(mask)), setting.tensor(maps)
    conjugate = sensitivities.conj().resolve_conj()
    x, truth = setting.tensor(setting.images), setting.tensor(_truth(setting))
    y = torch.stack([weights * torch.fft.fft2(sensitivities * image) for image in truth])

    def gradient(part: slice) -> Any:
        residual = weights * torch.fft.fft2(sensitivities * x[part, None]) - y[part]
        return (conjugate * torch.fft.ifft2(residual, norm="forward")).sum(dim=1).real

    def in_parts(n_at_once: int) -> Any:
        parts = [slice(first, first + n_at_once) for first in range(0, setting.n_slices, n_at_once)]
        return torch.cat([gradient(part) for part in parts])

    counts = sorted({1, min(4, setting.n_slices), setting.n_slices})
    name = fastest(setting, {str(count): partial(in_parts, count) for count in counts})
    return Call(lambda: in_parts(int(name)), same, note=f"{name} slices at once")


def _fft_module(setting: Setting, mask: np.ndarray) -> Call:
    fft = load("cupyx.scipy.fft") if setting.is_cuda else load("scipy.fft")
    options = {} if setting.is_cuda else {"workers": setting.threads}
    weights = setting.array(np.fft.ifftshift(mask))
    x = setting.array(setting.images)
    y = weights * fft.fft2(setting.array(_truth(setting)), **options)

    def gradient() -> Any:
        residual = weights * fft.fft2(x, **options) - y
        return fft.ifft2(residual, norm="forward", overwrite_x=True, **options).real

    return Call(gradient, same)
