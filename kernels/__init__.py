"""Native operators on NumPy and CuPy arrays: projections, k-space, slice profiles, noise, the sampler's arithmetic.

Every function on arrays checks its arguments, converts none of them, and has a slow readable twin of the same name in
`kernels.reference`. Results do not depend on the number of threads.
"""

try:
    from kernels import _cpu  # noqa: F401
except ImportError as error:
    raise ImportError("kernels: native module not built; run `pip install -e .` in the repository root") from error

from kernels.geometry import FanGeometry, Geometry, ParallelGeometry
from kernels.kspace import coil_combine, coil_expand, half_of, kspace_residual, kspace_residual_half
from kernels.lines import LineFilters, filter_lines
from kernels.philox import NoiseKey, philox_bits, philox_normal, philox_slices
from kernels.profile import Bands, banded_sum
from kernels.radon import radon_adjoint, radon_fbp, radon_forward
from kernels.threads import available_cores, get_threads, set_threads, threads_here
from kernels.update import langevin_steps, sampler_update, score_norms

__all__ = [
    "Bands",
    "FanGeometry",
    "Geometry",
    "LineFilters",
    "NoiseKey",
    "ParallelGeometry",
    "available_cores",
    "banded_sum",
    "coil_combine",
    "coil_expand",
    "filter_lines",
    "get_threads",
    "half_of",
    "kspace_residual",
    "kspace_residual_half",
    "langevin_steps",
    "philox_bits",
    "philox_normal",
    "philox_slices",
    "radon_adjoint",
    "radon_fbp",
    "radon_forward",
    "sampler_update",
    "score_norms",
    "set_threads",
    "threads_here",
]
