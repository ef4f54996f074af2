"""What every rank does in `test_slabs.py`: volumes shared out, beside the same in one process."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI

import kernels
from engine.backends.bundle import Bundle
from engine.backends.native import NativeDenoiser
from engine.backends.padding import PaddedDenoiser
from engine.methods import solve
from engine.parallel.communicator import MpiCommunicator
from engine.parallel.slabs import SlabDecomposition
from engine.parallel.stack import Stack
from engine.problems.tasks import Measurement, simulate
from engine.sampling.posterior_mean import Prior
from engine.sampling.settings import Settings
from engine.volume import Plane

PLANES = [Plane.parse(name) for name in ("axial", "coronal", "sagittal", "2,1,0", "1,2,0")]
TASKS = {
    "csmri": Measurement(acceleration=2, noise=0.01),
    "csmri of coils": Measurement(acceleration=2, coils=2),
    "svct": Measurement(views=7),
    "mrzsr": Measurement(factor=3),
    "mrzsr gaussian": Measurement(factor=3, slice_profile="gaussian", gap=0.5),
    "uncond": Measurement(),
}
SETTINGS = {
    "ddim": {},
    "ddim dps": {"guidance": "dps"},
    "ddim dps, fixed weight": {"guidance": "dps", "dps_weight": 0.5, "group": 4},
    "ddim, fixed rho": {"rho": 0.1},
    "heun": {"sampler": "heun", "eta": 0.3},
    "pc": {"sampler": "pc", "guidance": "dps", "group": 4},
    "pc, published": {"sampler": "pc", "guidance": "dps", "stable": False},
    "pc proximal": {"sampler": "pc"},
    "sum": {"mix": "sum"},
    "random turns": {"K": 2.5},
}
THREE_PLANES = ("sum", "random turns")


def check_decomposition(comm: MpiCommunicator) -> None:
    """Every change of planes, and every way to bring numbers together, against NumPy."""
    volume = np.random.default_rng(0).random((10, 7, 9)).astype(np.float32)
    decomposition = SlabDecomposition(comm, volume.shape, PLANES)
    for plane in PLANES:
        stack, expected = Stack.scattered(volume, plane, decomposition), plane.slices_of(volume)
        assert stack.data.flags.c_contiguous
        np.testing.assert_array_equal(stack.data, stack.own(expected))
        for other in PLANES:
            turned = stack.to(other)
            assert (turned.plane, turned.n_slices) == (other, other.shape_of(volume.shape)[0])
            np.testing.assert_array_equal(turned.data, turned.own(other.slices_of(volume)))
        numbers = expected.sum(axis=2, dtype=np.float64)
        np.testing.assert_array_equal(stack.all_gather(stack.own(numbers)), numbers)
        whole = stack.gathered()
        if comm.is_root:
            np.testing.assert_array_equal(whole, volume)
        else:
            assert whole is None
    assert comm.largest(float(comm.rank)) == comm.size - 1


def check_runs(comm: MpiCommunicator, folders: list[Path]) -> int:
    """Every task and sampler, bit for bit."""
    x = np.meshgrid(*[np.linspace(-1, 1, n) for n in (12, 11, 9)], indexing="ij")
    volume = np.exp(-3 * (x[0] ** 2 + x[1] ** 2 + 2 * x[2] ** 2)).astype(np.float32)
    bundles = [Bundle.open(folder) for folder in folders]
    planes = [Plane.parse(name) for name in ("axial", "coronal", "sagittal")]
    # The third plane has a network of another one: here it is to do something, not to do it well.
    priors = [
        Prior(PaddedDenoiser(NativeDenoiser(b, n_threads=1), b.divisor), plane)
        for b, plane in zip([*bundles, bundles[0]], planes, strict=True)
    ]
    n_compared = 0
    for (title, how), (name, changes) in itertools.product(TASKS.items(), SETTINGS.items()):
        task_name = title.split()[0]
        if task_name == "svct":
            continue
        # Axial slices do not show the axis along which slices are thick.
        ours = priors[1:] if task_name == "mrzsr" else priors if name in THREE_PLANES else priors[:2]
        task = simulate(task_name, volume, ours[0].plane, how, volume.shape)
        settings = Settings(n_steps=3, **changes)
        decomposition = SlabDecomposition(comm, volume.shape, [prior.plane for prior in ours])
        together = solve("tpdm", task, ours, settings, decomposition=decomposition)
        if comm.is_root:
            alone = solve("tpdm", task, ours, settings)
            message = f"{title}, {name}, {comm.size} ranks"
            np.testing.assert_array_equal(together.volume, alone.volume, err_msg=message)
            np.testing.assert_array_equal(together.residuals, alone.residuals, err_msg=message)
            n_compared += 1
        comm.everyones(None)
    return n_compared


def check_projections(comm: MpiCommunicator, folders: list[Path]) -> None:
    """The same of projections, which want square slices."""
    volume = np.random.default_rng(1).random((8, 8, 9)).astype(np.float32)
    bundles = [Bundle.open(folder) for folder in folders]
    priors = [
        Prior(PaddedDenoiser(NativeDenoiser(b, n_threads=1), b.divisor), Plane.parse(name))
        for b, name in zip(bundles, ("axial", "coronal"), strict=True)
    ]
    task = simulate("svct", volume, priors[0].plane, TASKS["svct"])
    decomposition = SlabDecomposition(comm, volume.shape, [prior.plane for prior in priors])
    for name, changes in SETTINGS.items():
        settings = Settings(n_steps=3, **changes)
        together = solve("tpdm", task, priors, settings, decomposition=decomposition)
        if comm.is_root:
            alone = solve("tpdm", task, priors, settings)
            np.testing.assert_array_equal(together.volume, alone.volume, err_msg=f"svct, {name}, {comm.size} ranks")
        comm.everyones(None)


if __name__ == "__main__":
    kernels.set_threads(1)
    everybody = MpiCommunicator(MPI.COMM_WORLD)
    check_decomposition(everybody)
    n = check_runs(everybody, [Path(word) for word in sys.argv[1:]])
    check_projections(everybody, [Path(word) for word in sys.argv[1:]])
    if everybody.is_root:
        print(f"{n} runs alike")
