import numpy as np
import numpy.typing as npt

from kernels.geometry import Tables

_Float32 = npt.NDArray[np.float32]
_Float64 = npt.NDArray[np.float64]
_UInt32 = npt.NDArray[np.uint32]
#: Seed, step, phase, start, strides of slices, rows and columns.
_Key = tuple[int, ...]
_Int64 = npt.NDArray[np.int64]
_Complex64 = npt.NDArray[np.complex64]

def radon_forward_scratch(n_slices: int, n_rows: int, n_columns: int) -> int: ...
def radon_adjoint_scratch(n_slices: int, n_views: int, n_bins: int) -> int: ...
def radon_forward(images: _Float32, tables: Tables, scratch: _Float32, out: _Float32, context: int) -> None: ...
def radon_adjoint(sinogram: _Float32, tables: Tables, scratch: _Float32, out: _Float32, context: int) -> None: ...
def radon_backproject(
    filtered: _Float32, tables: Tables, scale: float, scratch: _Float32, out: _Float32, context: int
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
def kspace_norms(n_slices: int, n_copies: int, n_rows: int, n_columns: int) -> int: ...
def kspace_residual(
    spectrum: _Complex64,
    measured: _Complex64,
    noise: _Complex64 | None,
    weight: _Float32,
    scale: float,
    norms: _Float64,
    context: int,
) -> None: ...
def kspace_residual_half(
    spectrum: _Complex64,
    n_full: int,
    measured: _Complex64,
    noise: _Complex64 | None,
    weight: _Float32,
    scale: float,
    norms: _Float64,
    context: int,
) -> None: ...
def coil_expand(images: _Float32 | _Complex64, maps: _Complex64, out: _Complex64, context: int) -> None: ...
def coil_combine(coils: _Complex64, maps: _Complex64, out: _Float32 | _Complex64, context: int) -> None: ...
def filter_lines(x: _Float32, weights: _Float32, firsts: _Int64, axis: int, out: _Float32, context: int) -> None: ...
def banded_sum(x: _Float32, weights: _Float32, runs: _Int64, axis: int, out: _Float32, context: int) -> None: ...
