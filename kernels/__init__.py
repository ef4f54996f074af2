"""Native operators on NumPy and CuPy arrays: projections, counter-based noise, the fused sampler update.

Every function here checks its arguments, converts none of them, and has a slow readable twin of the same name in
`kernels.reference`. Results do not depend on the number of threads.
"""

try:
    from kernels import _cpu  # noqa: F401
except ImportError as error:
    raise ImportError("kernels: native module not built; run `pip install -e .` in the repository root") from error

from kernels.geometry import FanGeometry, Geometry, ParallelGeometry
from kernels.philox import philox_bits, philox_normal
from kernels.radon import radon_adjoint, radon_fbp, radon_forward
from kernels.threads import get_threads, set_threads, threads_here
from kernels.update import fused_update

__all__ = [
    "FanGeometry",
    "Geometry",
    "ParallelGeometry",
    "fused_update",
    "get_threads",
    "philox_bits",
    "philox_normal",
    "radon_adjoint",
    "radon_fbp",
    "radon_forward",
    "set_threads",
    "threads_here",
]
