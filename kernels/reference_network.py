"""The slow, readable twin of `kernels.network`: a program's layers in NumPy and float64, forward only.

Its derivative, by differences, is what the pullback is held against.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Every array: float64, an image as (channels, height, width).
Array = np.ndarray[Any, Any]
_TAPS = np.array([1.0, 3.0, 3.0, 1.0]) / 8


def _silu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-x)))


def _conv(x: Array, weight: Array, stride: int, pad: int) -> Array:
    """Sum over channels and taps, zeros around: (c, h, w) -> (n, ...)."""
    k = weight.shape[-1]
    framed = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(framed, (k, k), axis=(1, 2))[:, ::stride, ::stride]
    return np.asarray(np.einsum("chwij,ncij->nhw", windows, weight))


def _depthwise(x: Array, taps: Array, stride: int, pad: int) -> Array:
    kernel = np.outer(taps, taps)[None, None]
    return np.concatenate([_conv(channel[None], kernel, stride, pad) for channel in x])


def _stuffed(x: Array) -> Array:
    out = np.zeros((len(x), 2 * x.shape[1] - 1, 2 * x.shape[2] - 1))
    out[:, ::2, ::2] = x
    return out


def _norm(x: Array, layer: dict[str, Any]) -> Array:
    grouped = x.reshape(layer["groups"], -1)
    centred = grouped - grouped.mean(axis=1, keepdims=True)
    rstd = 1 / np.sqrt((centred**2).mean(axis=1, keepdims=True) + layer["eps"])
    u = (centred * rstd).reshape(x.shape) * layer["weight"][:, None, None] + layer["bias"][:, None, None]
    return _silu(u) if layer["silu"] else np.asarray(u)


def _attend(q: Array, k: Array, v: Array, scale: float) -> Array:
    q, k, flat = (a.reshape(len(a), -1) for a in (q, k, v))
    scores = scale * q.T @ k
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray((flat @ weights.T).reshape(v.shape))


def _layer(layer: dict[str, Any], images: dict[int, Array], vectors: dict[int, Array]) -> Array:
    kind, sources = layer["op"], [images[i] for i in layer["in"]]
    x = sources[0]
    if kind == "conv":
        y = _conv(x, layer["weight"], layer["stride"], layer["pad"]) + layer["bias"][:, None, None]
        if layer["vector"] is not None:
            y += vectors[layer["vector"]][:, None, None]
        return np.asarray(y + layer["addend_scale"] * sources[1]) if len(sources) == 2 else y
    if kind == "norm":
        return _norm(x, layer)
    if kind == "down":
        return _depthwise(x, _TAPS, 2, 1) if layer["fir"] else _depthwise(x, np.array([0.5, 0.5]), 2, 0)
    if kind == "up":
        if not layer["fir"]:
            return x.repeat(2, axis=1).repeat(2, axis=2)
        # Transpose of the averaging filter, times four: zeros between the pixels, and one more at the far border.
        return _depthwise(np.pad(_stuffed(x), ((0, 0), (2, 2), (2, 2))), 2 * _TAPS, 1, 0)
    if kind == "fir":
        return float(layer["gain"]) * _depthwise(x, _TAPS, 1, layer["pad"])
    if kind == "stuff":
        return _stuffed(x)
    if kind == "cat":
        return np.concatenate(sources)
    if kind == "attend":
        return _attend(sources[0], sources[1], sources[2], layer["scale"])
    if kind == "add":
        return x + sources[1]
    if kind == "affine":
        return float(layer["mul"]) * x + float(layer["add"])
    raise ValueError(f"layer: expected a known kind, got {kind}")


def denoise(program: dict[str, Any], x: Array, sigma: float) -> Array:
    """x̂₀ of one image.

    Parameters
    ----------
    program : dict
        As in ``network.json``, with arrays in the place of their offsets.
    x : float64 (h, w)
    sigma : float

    Returns
    -------
    float64 (h, w)
    """
    vectors: dict[int, Array] = {}
    for layer in program["vectors"]:
        if layer["op"] == "fourier":
            phase = 2 * np.pi * np.log(sigma) * layer["weight"]
            vectors[layer["out"]] = np.concatenate([np.sin(phase), np.cos(phase)])
        elif layer["op"] == "dense":
            vectors[layer["out"]] = layer["weight"] @ vectors[layer["in"]] + layer["bias"]
        else:
            vectors[layer["out"]] = _silu(vectors[layer["in"]])
    images: dict[int, Array] = {0: np.asarray(x[None], np.float64)}
    for layer in program["images"]:
        images[layer["out"]] = _layer(layer, images, vectors)
    return np.asarray(x + sigma ** program["sigma_power"] * images[program["output"]][0], np.float64)
