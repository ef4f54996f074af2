"""The sampler's arithmetic: norms, step sizes and the update, each one pass over memory with the noise made on the way.

NumPy or CuPy arrays, the same out. On a GPU nothing here waits for the device: what a step needs to know of a norm
stays where the norm is.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.arrays import library_of
from kernels.checks import check_array
from kernels.native import native_of
from kernels.philox import NoiseKey

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def score_norms(x: Float32, x0: Float32, noise: NoiseKey | Float32) -> Float64:
    """Return Σ (x0 - x)² and Σ noise² of every slice, the two norms that set the corrector's step.

    Differences are rounded to float32; their squares, and all sums, are float64. The order of the sums is fixed: the
    result does not depend on threads, and between CPU and GPU differs by rounding alone.

    Parameters
    ----------
    x : float32 (n, h, w), C-contiguous
        Noisy slices.
    x0 : float32 (n, h, w), C-contiguous
        Denoised slices.
    noise : NoiseKey, or float32 (n, h, w), C-contiguous
        Keyed noise is made on the way and not stored.

    Returns
    -------
    float64 (n, 2)
        Σ (x0 - x)², Σ noise²; zeros for slices without entries.

    Raises
    ------
    TypeError
        An array is not float32, or of another library than `x`; `noise` is neither key nor array.
    ValueError
        Another rank, shape or layout; a voxel at or beyond 2^63.
    """
    library, native_noise = _check_stacks(x, x0, noise, None, None)
    if noise is None:
        raise TypeError("noise: expected a NoiseKey or an array, got None; pass the noise of the update")
    native, context = native_of(library)
    parts = library.empty((native.norm_parts(*x.shape), len(x), 2), np.float64)
    norms: Float64 = library.empty((len(x), 2), np.float64)
    native.score_norms(x, x0, native_noise, parts, norms, context)
    return norms


def langevin_steps(norms: Float64, groups: Sequence[slice], snr: float, sigma: float) -> tuple[Float32, Float32]:
    """Return the corrector's step for every slice: x + ε s + √(2ε) z is x + a (x0 - x) + b z.

    With the score s = (x0 - x) / σ², ε = 2 (snr · mean ‖z‖ / mean ‖s‖)², the means over the slices of a group;
    a = ε / σ², b = √(2ε). Computed in float64, rounded at the end. A group whose score is zero everywhere has no
    scale to walk on: its a and b are 0, and it stays where it is. NaN norms give NaN for their group, no other.

    Parameters
    ----------
    norms : float64 (n, 2), C-contiguous
        From `score_norms`.
    groups : sequence of slice
        Consecutive ones that together cover 0 ... n - 1; none may be empty.
    snr : float
        Signal-to-noise ratio that sets the step.
    sigma : float
        Noise level σ of `x`, positive, in units of image intensity.

    Returns
    -------
    a, b : float32 (n,)
        In the library of `norms`.

    Raises
    ------
    TypeError
        `norms` is not a float64 array.
    ValueError
        `norms` has another rank or layout; the groups do not cover it; `sigma` is not a positive number.

    Notes
    -----
    Song et al., Score-based generative modeling through stochastic differential equations, ICLR 2021, algorithm 4.
    """
    check_array("norms", norms, ("n", 2), np.float64, "pass the result of score_norms")
    if not (0 < sigma < np.inf and 0 < sigma**2 < np.inf):
        raise ValueError(f"sigma: expected a positive number, got {sigma}; pass the noise level of x")
    n = len(norms)
    bounds = [0]
    for group in groups:
        if group.start != bounds[-1] or not group.start < group.stop or group.step not in (None, 1):
            raise ValueError(f"groups: expected one that begins at {bounds[-1]}, got {group}; pass consecutive slices")
        bounds.append(int(group.stop))
    if bounds[-1] != n:
        raise ValueError(f"groups: expected them to cover {n} slices, got {bounds[-1]}; cut all slices into groups")
    library = library_of(norms=norms)
    native, context = native_of(library)
    a: Float32 = library.empty(n, np.float32)
    b: Float32 = library.empty(n, np.float32)
    native.langevin_steps(norms, bounds, snr, sigma**2, a, b, context)
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
    """Return x + a (x0 - x) + b noise - weight pullback, slice by slice, in one pass.

    Every product and sum is rounded to float32, from left to right. NaN goes where the formula takes it.

    Parameters
    ----------
    x : float32 (n, h, w), C-contiguous
        State.
    x0 : float32 (n, h, w), C-contiguous
        Denoised slices.
    noise : NoiseKey, or float32 (n, h, w), C-contiguous, or None
        Keyed noise is made on the way and not stored. None leaves the term out, and `b` unused.
    a, b : float, or float32 (n,), C-contiguous
        One number, rounded to float32, or one for every slice.
    pullback : float32 (n, h, w), C-contiguous, or None
        Gradient of data consistency. None leaves the term out, and `weight` unused.
    weight : float32 (n,), C-contiguous, or None
        Length of the step along it, for every slice.
    out : float32 (n, h, w), C-contiguous, writeable, or None
        Where the result goes; may be `x`, `x0`, `noise` or `pullback` itself, but may not overlap one partly. None: a
        new array.

    Returns
    -------
    float32 (n, h, w)
        `out`, if given.

    Raises
    ------
    TypeError
        An array is not float32, or of another library than `x`; `noise` is neither key, array nor None; `noise`
        without `b`, or `pullback` without `weight`.
    ValueError
        Another rank, shape or layout; `out` is read-only or overlaps an input partly; a voxel at or beyond 2^63.
    """
    library, native_noise = _check_stacks(x, x0, noise, pullback, out)
    a = _of_slices("a", a, x, library)
    b = None if noise is None else _of_slices("b", b, x, library)
    weight = None if pullback is None else _of_slices("weight", weight, x, library)
    if out is None:
        out = library.empty_like(x)
    native, context = native_of(library)
    native.sampler_update(x, x0, native_noise, a, b, pullback, weight, out, context)
    return out


def _check_stacks(x: Any, x0: Any, noise: Any, pullback: Any, out: Any) -> tuple[ModuleType, Any]:
    """Check everything that has the size of the stack; return the library, and the noise as native code takes it."""
    stored = None if isinstance(noise, NoiseKey) else noise
    library = library_of(x=x, x0=x0, noise=stored, pullback=pullback, out=out)
    check_array("x", x, ("n", "h", "w"), np.float32, "pass a stack of slices")
    sources = {"x0": x0, "noise": stored, "pullback": pullback}
    for name, value in sources.items():
        if value is not None:
            check_array(name, value, x.shape, np.float32, "pass an array of the shape of x")
    if out is not None:
        check_array("out", out, x.shape, np.float32, "pass an array of the shape of x")
        _check_writeable(out, library, x, *sources.values())
    return library, noise.native(x.shape) if isinstance(noise, NoiseKey) else stored


def _of_slices(name: str, value: Any, x: Float32, library: ModuleType) -> Float32:
    """One float32 a slice, in the library of the stack."""
    if isinstance(value, (int, float, np.integer, np.floating)):
        # Filled by a kernel that takes the number as an argument: no copy to the device.
        filled: Float32 = library.full(len(x), value, np.float32)
        return filled
    check_array(name, value, (len(x),), np.float32, "pass one number a slice")
    library_of(x=x, **{name: value})
    given: Float32 = value
    return given


def _check_writeable(out: Any, library: ModuleType, *sources: Any) -> None:
    if library is np and not out.flags.writeable:
        raise ValueError("out: expected a writeable array, got a read-only one; pass a copy")
    first = _address(out)
    for source in sources:
        # Equal sizes and contiguous: the distance of the addresses decides.
        if source is not None and 0 < abs(_address(source) - first) < out.nbytes:
            raise ValueError("out: expected an input itself or separate memory, got a shifted view; pass a copy")


def _address(array: Any) -> int:
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)
