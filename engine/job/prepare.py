"""From options to a checked job: everything that would fail later fails here."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, replace

import numpy as np

import kernels
from engine import demo
from engine.backends.borders import NO_FACES, Faces, cut_faces, margins_of, padded
from engine.backends.bundle import Bundle
from engine.backends.compiled import PRECISIONS
from engine.backends.engines import Engines
from engine.backends.padding import padded_shape
from engine.backends.select import BACKENDS, Request, Role
from engine.device import n_gpus
from engine.errors import InputError
from engine.job.adaptation import Adaptation, adapted
from engine.job.choices import settings_of
from engine.job.job import Job
from engine.job.measurement import noise_level_of, open_measurement
from engine.job.output import Output
from engine.job.priors import check_sizes, open_bundles
from engine.methods import METHODS, check
from engine.methods.phase_choice import PhaseChoice, phase_choice
from engine.operators import LinearOperator
from engine.options import Options, option, read
from engine.parallel.communicator import Communicator, MpiCommunicator, SerialCommunicator
from engine.parallel.decomposition import UNDIVIDED, Decomposition
from engine.parallel.slabs import SlabDecomposition
from engine.problems import acquisition
from engine.problems.noise_level import with_noise_level
from engine.sampling.posterior_mean import Prior
from engine.sampling.problem import InverseProblem
from engine.sampling.reconstruction import check_guidance
from engine.sampling.settings import Settings
from engine.volume import Plane

log = logging.getLogger("engine")


@dataclass(frozen=True)
class Machine(Options):
    """What a run works on."""

    backend: str = option(
        "auto",
        choices=BACKENDS,
        help="runner of the networks; auto: the fastest that runs here, the plan names it with the reason",
    )
    device: str = option("auto", help="auto, cpu, cuda, or cuda:N for the N-th GPU")
    precision: str | None = option(
        None,
        choices=PRECISIONS,
        default_words="the most exact one that is built",
        help="arithmetic of the networks",
    )
    batch_size: int | None = option(
        None,
        low=1,
        high=4096,
        default_words="1 or 2 on a CPU; on a GPU the size for which the graphs were optimised",
        help="slices that go through a network together; does not change the result",
        remedy="leave it out for the backend's own",
    )
    threads: int | None = option(
        None,
        low=1,
        high=1024,
        default_words="all cores",
        help="worker threads on a CPU",
        remedy="leave it out for all cores",
    )


def prepare(args: argparse.Namespace, comm: Communicator | None = None, engines: Engines | None = None) -> Job:
    """Turn options, of `engine.job.configuration.parse`, into a job, on every process of a team.

    Parameters
    ----------
    args : Namespace
    comm : Communicator, optional
    engines : Engines, optional
        Bundles and denoisers of earlier jobs of this process.

    Raises
    ------
    InputError
        Anything that would fail later.
    """
    comm, engines = comm or SerialCommunicator(), engines or Engines()
    machine, n_samples = read(Machine, args), read(Output, args).samples
    n_threads = machine.threads or (None if comm.size == 1 else comm.n_threads)
    if n_threads:
        kernels.set_threads(n_threads)
    measured = open_measurement(args)
    asked = settings_of(args)
    bundles, planes = open_bundles(args, measured, engines, from_noise=measured is None or asked.sampler == "pc")
    voxel_mm = None if measured is None else measured.voxel_mm
    if measured is None:
        side = bundles["primary"].trained_size or demo.SIZE
        measured = acquisition.of_nothing((side, side, side), np.diag([demo.VOXEL_MM] * 3 + [1.0]))
    shapes = {role: plane.shape_of(measured.shape)[1:] for role, plane in planes.items()}
    check_sizes(bundles, shapes, voxel_mm)
    problem = measured.problem(planes["primary"])
    check(args.method, problem, len(bundles), comm.size)
    settings = METHODS[args.method].resolved(asked, problem, _trained_range(bundles))
    if "guidance" in METHODS[args.method].reads:
        check_guidance(problem, settings)
    if minutes := read(Adaptation, args).adapt:
        if not problem.is_of_slices:
            raise InputError(
                "adapt", "one stack of thick slices", "several", "adapt to one of them, and pass --primary"
            )
        if comm.size > 1:
            raise InputError("adapt", "a run of one process", f"{comm.size} ranks", "adapt beforehand, alone")
        bundles = adapted(bundles, measured, problem, minutes, n_threads, engines)
    if n_samples > 1 and settings.noise_scale is not None and settings.noise_scale < 1:
        log.warning(
            "samples with a noise scale of %g differ by less than is uncertain; --preset balanced draws real ones",
            settings.noise_scale,
        )
    level = noise_level_of(args, measured)
    if problem.operator is not None and level is not None:
        problem = with_noise_level(problem, level)
    faces = _faces_of(problem, bundles)
    # Last, because it may load graphs onto a GPU.
    gpu = comm.local_rank % max(1, n_gpus()) if comm.size > 1 else 0
    selection = engines.selection(
        _roles(bundles, planes, shapes, faces, problem, settings),
        Request(machine.backend, machine.precision, machine.device, machine.batch_size, n_threads, gpu),
    )
    priors = tuple(
        Prior(padded(selection.denoisers[role], bundle, planes[role], faces, shapes[role]), planes[role])
        for role, bundle in bundles.items()
    )
    choice = None
    if measured.chooses_phase:
        problem, choice = _with_phase(problem, args.method, priors, settings)
    n_threads = (n_threads or kernels.available_cores()) if selection.device.name == "cpu" else None
    decomposition: Decomposition = UNDIVIDED
    if isinstance(comm, MpiCommunicator):
        decomposition = SlabDecomposition(comm, measured.shape, [prior.plane for prior in priors], selection.device)
    return Job(
        *(args.method, measured, problem, priors, bundles, settings, selection, n_threads, n_samples),
        decomposition,
        comm.size,
        choice,
        faces,
    )


def _with_phase(
    problem: InverseProblem, method: str, priors: tuple[Prior, ...], settings: Settings
) -> tuple[InverseProblem, PhaseChoice | None]:
    """The problem of the kind of images that foretells samples better; for methods that foretell none, as it is."""
    choice = phase_choice(problem, method, priors, settings) if METHODS[method].fits_data else None
    is_real = choice is not None and choice.is_real
    problem = problem.of_real_images() if is_real else problem
    return replace(problem, details={**problem.details, "phase": "estimate" if is_real else "joint"}), choice


def _faces_of(problem: InverseProblem, bundles: dict[str, Bundle]) -> Faces:
    """The faces at which a prior of the run may want a margin."""
    if not any(bundle.margin for bundle in bundles.values()):
        return NO_FACES
    image = problem.classical()
    return NO_FACES if image is None else cut_faces(image)


def _trained_range(bundles: dict[str, Bundle]) -> tuple[float, float]:
    ranges = [bundle.sigma_range for bundle in bundles.values()]
    return max(low for low, _ in ranges), min(high for _, high in ranges)


def _roles(
    bundles: dict[str, Bundle],
    planes: dict[str, Plane],
    shapes: dict[str, tuple[int, int]],
    faces: Faces,
    problem: InverseProblem,
    settings: Settings,
) -> dict[str, Role]:
    """What each denoiser has to do.

    Guided steps of the primary network compare with the operator; proximal steps need none of the backend, and a graph
    that holds the operator holds it for the network's own size.
    """
    roles = {}
    for role, bundle in bundles.items():
        margins = margins_of(bundle, planes[role], faces, shapes[role])
        whole = padded_shape(shapes[role], bundle.divisor, margins)
        is_guided = role == "primary" and settings.guidance == "dps" and whole == shapes[role]
        operator = problem.operator if isinstance(problem.operator, LinearOperator) else None
        roles[role] = Role(bundle, whole, operator if is_guided else None)
    return roles
