"""Every kernel on a GPU, on small arrays of awkward sizes: ``compute-sanitizer python -m benchmarks.gpu.every_kernel``.

Under the sanitizer each launch takes a hundred times as long, and whole test suites far too long.
"""

from __future__ import annotations

import sys

import cupy
import numpy as np

import kernels
from engine.operators import CoilFourier, LinearOperator, MaskedFourier, Radon, ThickSlices


def main() -> int:
    rng = np.random.default_rng(0)
    shape = (17, 12)
    mask = cupy.asarray((rng.random(shape) < 0.5).astype(np.float32))
    maps = cupy.asarray((rng.standard_normal((3, *shape)) + 1j * rng.standard_normal((3, *shape))).astype(np.complex64))
    operators: list[LinearOperator] = [
        Radon(kernels.ParallelGeometry.from_views(13, 5)),
        Radon(kernels.FanGeometry(shape, [0.1, 2.0, 4.0], 40.0, 20.0, 31, bin_offset=0.7)),
        Radon(kernels.FanGeometry(shape, [0.1, 2.0, 4.0], 40.0, 20.0, 31, curved=True)),
        *(MaskedFourier(mask, dtype) for dtype in (np.float32, np.complex64)),
        *(CoilFourier(mask, maps, dtype) for dtype in (np.float32, np.complex64)),
        *(ThickSlices(shape, 4, axis, "gaussian", 0.5) for axis in (1, 2)),
    ]
    # One slice, and more than the sixteen that one thread of a projection works on.
    for n in (1, 19):
        for operator in operators:
            x = cupy.asarray(rng.random((n, *operator.slice_shape)).astype(operator.image_dtype))
            y = operator.apply(x)
            operator.adjoint(y)
            operator.classical(y)
            operator.fidelity(y, 0.5)(x, slice(None), cupy.zeros_like(y))
        for strides in ((204, 12, 1), (1, 12 * n, n), (12, 1, 12 * 17), (7, 5, 3)):
            key = kernels.NoiseKey(1, 2, 3, strides, start=5)
            x, x0 = kernels.philox_slices(key, (n, *shape), cupy), cupy.zeros((n, *shape), np.float32)
            for noise in (key, x.copy()):
                norms = kernels.score_norms(x, x0, noise)
                a, b = kernels.langevin_steps(norms, [slice(0, n)], 0.16, 1.0)
                kernels.sampler_update(x, x0, noise, a, b, x0, a)
                kernels.sampler_update(x, x0, None, 0.5)
        kernels.philox_normal(1, 2, 3, (n, 7), start=3, library=cupy)
    kernels.philox_bits(cupy.zeros((5, 4), np.uint32), (1, 2))
    cupy.cuda.Device().synchronize()
    print("every kernel ran")
    return 0


if __name__ == "__main__":
    # One allocation an array: in CuPy's pool a write past an array's end may still lie in memory that is ours.
    cupy.cuda.set_allocator(None)
    sys.exit(main())
