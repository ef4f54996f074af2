import numpy as np
import numpy.typing as npt

_Float32 = npt.NDArray[np.float32]
_Float64 = npt.NDArray[np.float64]
_UInt32 = npt.NDArray[np.uint32]
#: Seed, step, phase, start, strides of slices, rows and columns.
_Key = tuple[int, ...]

def radon_forward(images: _Float32, cos_sin: _Float64, before: int, out: _Float32, context: int) -> None: ...
def radon_adjoint(sinogram: _Float32, cos_sin: _Float64, before: int, out: _Float32, context: int) -> None: ...
def radon_backproject(
    filtered: _Float32, cos_sin: _Float64, before: int, scale: float, out: _Float32, context: int
) -> None: ...
def philox_normal(seed: int, step: int, phase: int, start: int, out: _Float32, context: int) -> None: ...
def philox_bits(counters: _UInt32, key0: int, key1: int, out: _UInt32, context: int) -> None: ...
def philox_slices(key: _Key, out: _Float32, context: int) -> None: ...
def norm_parts(n_slices: int, n_rows: int, n_columns: int) -> int: ...
def score_norms(
    x: _Float32, x0: _Float32, noise: _Float32 | _Key, parts: _Float64, norms: _Float64, context: int
) -> None: ...
def langevin_steps(
    norms: _Float64, bounds: list[int], snr: float, variance: float, a: _Float32, b: _Float32, context: int
) -> None: ...
def sampler_update(
    x: _Float32,
    x0: _Float32,
    noise: _Float32 | _Key | None,
    a: _Float32,
    b: _Float32 | None,
    pullback: _Float32 | None,
    weight: _Float32 | None,
    out: _Float32,
    context: int,
) -> None: ...
