"""From options to a checked job: everything that would fail later fails here."""

from __future__ import annotations

import argparse
import logging

import numpy as np

import kernels
from engine import demo
from engine.backends.engines import Engines
from engine.backends.padding import PaddedDenoiser, padded_shape
from engine.backends.select import Request, Role
from engine.device import n_gpus
from engine.job.choices import settings_of
from engine.job.job import Job
from engine.job.measured import noise_level_of, open_acquisition
from engine.job.networks import bundles_of, check_size, fits, plane_of, trained_range
from engine.job.options import CHECKED
from engine.methods import METHODS, check
from engine.options import check_value, declared
from engine.parallel.communicator import Communicator, MpiCommunicator, SerialCommunicator
from engine.parallel.decomposition import UNDIVIDED, Decomposition
from engine.parallel.slabs import SlabDecomposition
from engine.problems.acquisition import of_nothing
from engine.problems.noise_level import with_noise_level
from engine.sampling.posterior_mean import Prior
from engine.sampling.reconstruction import check_planes

log = logging.getLogger("engine")


def prepare(args: argparse.Namespace, comm: Communicator | None = None, engines: Engines | None = None) -> Job:
    """Turn options, of `engine.job.configuration.parse`, into a job, on every process of a communicator.

    Parameters
    ----------
    args : Namespace
    comm : Communicator, optional
    engines : Engines, optional
        What earlier jobs of this process opened.

    Raises
    ------
    InputError
        Anything that would fail later.
    """
    for group in CHECKED:
        for one in declared(group):
            check_value(one, getattr(args, one.destination))
    comm, engines = comm or SerialCommunicator(), engines or Engines()
    n_threads = args.threads or (None if comm.size == 1 else comm.n_threads)
    if n_threads:
        kernels.set_threads(n_threads)
    measured = open_acquisition(args)
    bundles = bundles_of(args, measured, engines)
    planes = {role: plane_of(role, bundle, getattr(args, f"{role}_plane")) for role, bundle in bundles.items()}
    check_planes(list(planes.values()))
    if measured is None:
        side = bundles["primary"].trained_size or demo.SIZE
        measured = of_nothing((side, side, side), np.diag([demo.VOXEL_MM] * 3 + [1.0]))
    shapes = {role: planes[role].shape_of(measured.shape)[1:] for role in bundles}
    for role, bundle in bundles.items():
        check_size(bundle, shapes[role])

    problem = measured.problem(planes["primary"])
    check(args.method, problem, len(bundles), comm.size)
    settings = METHODS[args.method].resolved(settings_of(args), problem, trained_range(bundles.values()))
    if args.samples > 1 and settings.noise_scale is not None and settings.noise_scale < 1:
        log.warning(
            "samples with a noise scale of %g differ by less than is uncertain; --preset balanced draws real ones",
            settings.noise_scale,
        )
    level = noise_level_of(args, measured)
    if problem.operator is not None and level is not None:
        problem = with_noise_level(problem, level)
    roles = {
        role: Role(
            bundle,
            padded_shape(shapes[role], bundle.divisor),
            # What the primary network's guided steps compare with; proximal steps need none of the backend, and a
            # graph that holds the operator holds it for the network's own size.
            problem.operator
            if role == "primary" and settings.guidance == "dps" and fits(shapes[role], bundle)
            else None,
        )
        for role, bundle in bundles.items()
    }
    # Last, because it may load graphs onto a GPU.
    gpu = comm.local_rank % max(1, n_gpus()) if comm.size > 1 else 0
    selection = engines.selection(
        roles, Request(args.backend, args.precision, args.device, args.batch_size, n_threads, gpu)
    )
    priors = tuple(
        Prior(PaddedDenoiser(selection.denoisers[role], bundle.divisor), planes[role])
        for role, bundle in bundles.items()
    )
    n_threads = (n_threads or kernels.available_cores()) if selection.device.name == "cpu" else None
    decomposition: Decomposition = UNDIVIDED
    if isinstance(comm, MpiCommunicator):
        decomposition = SlabDecomposition(comm, measured.shape, [prior.plane for prior in priors], selection.device)
    return Job(
        *(args.method, measured, problem, priors, bundles, settings, selection, n_threads, args.samples),
        decomposition,
        comm.size,
    )
