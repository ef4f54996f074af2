"""From options to a checked job: everything that would fail later fails here."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import kernels
from engine import demo, options
from engine.backends.bundle import Bundle
from engine.backends.engines import Engines
from engine.backends.padding import PaddedDenoiser, padded_shape
from engine.backends.select import Request, Role, Selection
from engine.device import n_gpus
from engine.errors import InputError
from engine.io.measurements.kspace import load_kspace
from engine.io.measurements.sinogram import load_sinogram
from engine.io.volumes import load_volume, resample_isotropic
from engine.job.choices import settings_of
from engine.job.options import CHECKED, FILES, ROLES, Measured
from engine.methods import METHODS, check
from engine.parallel.communicator import Communicator, MpiCommunicator, SerialCommunicator
from engine.parallel.decomposition import UNDIVIDED, Decomposition
from engine.parallel.slabs import SlabDecomposition
from engine.problems import acquisition as scan
from engine.problems.acquisition import Acquisition
from engine.problems.coil_maps import load_maps
from engine.problems.noise_level import with_noise_level
from engine.problems.tasks import Measurement
from engine.sampling.posterior_mean import ALL, Prior
from engine.sampling.problem import InverseProblem
from engine.sampling.reconstruction import check_planes
from engine.sampling.settings import Range, Settings
from engine.volume import Plane

log = logging.getLogger("engine")

#: Beyond this ratio to the size it was trained on, a network sees anatomy at a scale that it does not know.
_FAR_FROM_TRAINED = 1.5
#: Options of the simulation, which a measurement from a file does without.
_SIMULATES = ("volume", "resample", "acceleration", "coils", "views", "noise")


@dataclass(frozen=True)
class Job:
    """Everything that a run needs, checked."""

    method: str
    acquisition: Acquisition
    problem: InverseProblem
    priors: tuple[Prior, ...]
    bundles: dict[str, Bundle]
    settings: Settings
    selection: Selection
    n_threads: int | None
    n_samples: int
    decomposition: Decomposition = UNDIVIDED
    n_ranks: int = 1

    @property
    def identity(self) -> dict[str, Any]:
        """What has to be the same for the result to be the same, to the last bit."""
        y = self.problem.measurement
        digest = None if y is None else hashlib.sha256(np.ascontiguousarray(y).tobytes()).hexdigest()
        return {
            "task": self.problem.name,
            "method": self.method,
            "shape": list(self.acquisition.shape),
            "measurement": digest,
            "noise level": self.problem.noise_level,
            **{f"prior {role}": _key_of(bundle) for role, bundle in self.bundles.items()},
            **{f"setting {name}": value for name, value in asdict(self.settings).items()},
            "samples": self.n_samples,
            "backend": self.selection.backend,
            "precision": self.selection.precision,
        }


def _key_of(bundle: Bundle) -> str:
    return hashlib.sha256(json.dumps(bundle.manifest["files"], sort_keys=True).encode()).hexdigest()


def prepare(args: argparse.Namespace, comm: Communicator | None = None, engines: Engines | None = None) -> Job:
    """Turn options, of `engine.job.configuration.parse`, into a job, on every process of a team.

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
        for one in options.declared(group):
            options.check_value(one, getattr(args, one.destination))
    comm, engines = comm or SerialCommunicator(), engines or Engines()
    n_threads = args.threads or (None if comm.size == 1 else comm.n_threads)
    if n_threads:
        kernels.set_threads(n_threads)
    found = open_scan(args)
    bundles = _bundles(args, found, engines)
    planes = {role: _plane(role, bundle, getattr(args, f"{role}_plane")) for role, bundle in bundles.items()}
    check_planes(list(planes.values()))
    if found is None:
        side = bundles["primary"].trained_size or demo.SIZE
        found = scan.of_nothing((side, side, side), np.diag([demo.VOXEL_MM] * 3 + [1.0]))
    shapes = {role: planes[role].shape_of(found.shape)[1:] for role in bundles}
    for role, bundle in bundles.items():
        _check_size(bundle, shapes[role])

    problem = found.problem(planes["primary"])
    check(args.method, problem, len(bundles), comm.size)
    settings = METHODS[args.method].resolved(settings_of(args), problem, _trained_range(bundles.values()))
    if args.samples > 1 and settings.noise_scale is not None and settings.noise_scale < 1:
        log.warning(
            "samples with a noise scale of %g differ by less than is uncertain; --preset balanced draws real ones",
            settings.noise_scale,
        )
    level = _noise_level(args, found)
    if problem.operator is not None and level is not None:
        problem = with_noise_level(problem, level)
    roles = {
        role: Role(
            bundle,
            padded_shape(shapes[role], bundle.divisor),
            # What the primary network's guided steps compare with; proximal steps need none of the backend, and a
            # graph that holds the operator holds it for the network's own size.
            problem.operator
            if role == "primary" and settings.guidance == "dps" and _fits(shapes[role], bundle)
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
        decomposition = SlabDecomposition(comm, found.shape, [prior.plane for prior in priors], selection.device)
    return Job(
        *(args.method, found, problem, priors, bundles, settings, selection, n_threads, args.samples),
        decomposition,
        comm.size,
    )


def open_scan(args: argparse.Namespace) -> Acquisition | None:
    """Read what a run starts from; None for a grid that the priors' own size gives.

    Raises
    ------
    InputError
        A file that cannot be used, or options that contradict each other.
    """
    kind = _kind(args)
    if kind == "thick":
        thick = load_volume(args.thick, args.stack_axis, argument="thick", white=args.white)
        return scan.of_thick(thick, args.factor, args.thick_axis, args.slice_profile, args.gap)
    if kind == "kspace":
        kspace = load_kspace(args.kspace, orientation=args.orientation, mask=args.mask)
        maps = None if args.coil_maps is None else load_maps(args.coil_maps, kspace)
        return scan.of_kspace(kspace, maps, args.phase or "estimate", args.white)
    if kind == "sinogram":
        if args.geometry is None:
            raise InputError("geometry", "a JSON file beside --sinogram", "none", "pass --geometry")
        return scan.of_sinogram(load_sinogram(args.sinogram, args.geometry), args.white)
    return open_simulated(args)


def open_simulated(args: argparse.Namespace) -> Acquisition | None:
    """Read the volume that is measured, if there is one, and say how."""
    if args.volume is None and args.white is not None:
        raise InputError("white", "--volume, whose intensities it scales", "none", "pass a volume")
    if args.task == "uncond" and args.volume is None:
        return None
    if args.volume is None:
        volume = demo.volume()
    else:
        volume = load_volume(args.volume, args.stack_axis, white=args.white)
    if args.resample is not None:
        volume = resample_isotropic(volume, args.resample, argument="resample")
    axis = 2 if args.thick_axis is None else args.thick_axis
    factor = 4 if args.factor is None else args.factor
    how = Measurement(
        args.acceleration, factor, axis, args.views, args.seed, args.slice_profile, args.gap, args.noise, args.coils
    )
    return scan.of_volume(args.task, volume, how)


def _kind(args: argparse.Namespace) -> str | None:
    """Which kind of measurement is given."""
    kinds = [name for name in FILES if getattr(args, name) is not None]
    kind = kinds[0] if kinds else None
    if len(kinds) > 1:
        raise InputError(kinds[1], "one measurement", f"--{kinds[0]} too", "give one of them")
    if kind is not None and args.task != FILES[kind]:
        raise InputError(kind, f"the task {FILES[kind]}, which it is measured for", args.task, "change --task")
    for one in options.declared(Measured):
        if one.option.needs and getattr(args, one.destination) is not None and kind != one.option.needs[0]:
            raise InputError(one.name, f"--{one.option.needs[0]}, which it describes", "none", f"drop --{one.name}")
    for name in _SIMULATES if kind else ():
        if args.given.get(name) is not None:
            raise InputError(
                name,
                f"none beside --{kind}, which is measured already",
                args.given[name],
                "drop one of them",
            )
    return kind


def _noise_level(args: argparse.Namespace, found: Acquisition) -> float | str | None:
    """What the noise level is taken from; None where nothing reads it."""
    if args.noise_level == "known" and not found.knows_noise:
        raise InputError(
            "noise-level",
            f"estimate or a number for '{found.source}', which does not say",
            "known",
            "choose one of these",
        )
    if args.noise_level is not None:
        return args.noise_level  # type: ignore[no-any-return]
    if found.knows_noise:
        return "known"
    return "estimate" if "rho" in METHODS[args.method].reads else None


def _bundles(args: argparse.Namespace, found: Acquisition | None, engines: Engines) -> dict[str, Bundle]:
    """The bundles by their roles: those that are named, and shipped ones for primary and auxiliary."""
    shipped = args.planes or _shipped(found)
    if args.planes and any(getattr(args, role) for role in ROLES):
        raise InputError("planes", "no bundles beside the shipped ones", "some", "drop --planes or the bundles")
    if not 2 <= len(shipped) <= len(ROLES):
        raise InputError("planes", "two or three", f"{len(shipped)}", "name them as axial,coronal")
    if args.auxiliary is None and args.tertiary is not None and args.primary is not None:
        raise InputError("tertiary", "an auxiliary bundle before a third one", "none", "pass --auxiliary")
    folders = dict(zip(ROLES, map(demo.bundle_folder, shipped), strict=False))
    folders |= {role: getattr(args, role) for role in ROLES if getattr(args, role)}
    # A method that asks no network still has a plane in which it measures.
    n_needed = METHODS[args.method].n_priors
    roles = list(folders)[: None if n_needed is None else max(1, n_needed)]
    return {role: engines.bundle(folders[role]) for role in roles}


def _shipped(found: Acquisition | None) -> tuple[str, ...]:
    """The shipped priors for a measurement: one that suits it first."""
    first, *_ = suitable = [p for p in demo.ALL_PLANES if found is None or not found.unsuitable(Plane.parse(p))]
    return first, next(plane for plane in (*demo.PLANES, *suitable) if plane != first)


def _plane(role: str, bundle: Bundle, stated: str | None) -> Plane:
    plane = Plane.parse(stated) if stated else bundle.plane
    if plane is None:
        raise InputError(role, "a plane", f"none from the bundle '{bundle.folder}'", f"state it with --{role}-plane")
    if bundle.plane is not None and plane != bundle.plane:
        raise InputError(
            f"{role}-plane",
            f"{bundle.plane}, which '{bundle.folder}' was trained on",
            plane,
            "drop the option or give another engine",
        )
    return plane


def _fits(shape: tuple[int, int], bundle: Bundle) -> bool:
    return padded_shape(shape, bundle.divisor) == shape


def _check_size(bundle: Bundle, shape: tuple[int, int]) -> None:
    """Refuse slices too small to be padded; warn of those that are far from what the network knows."""
    if min(shape) < bundle.divisor:
        raise InputError(
            "volume",
            f"sides of at least {bundle.divisor} voxels for the network of '{bundle.folder}'",
            f"slices of {shape[0]}×{shape[1]}",
            "give a larger volume",
        )
    trained = bundle.trained_size
    if trained and max(shape) > _FAR_FROM_TRAINED * trained:
        log.warning(
            "the network of '%s' was trained on %d×%d slices and gets %d×%d: expect less of it",
            *(bundle.folder, trained, trained, *shape),
        )


def _trained_range(bundles: Collection[Bundle]) -> Range:
    return max(b.sigma_min for b in bundles), min(b.sigma_max for b in bundles)


def describe(job: Job) -> str:
    """The plan as text."""
    s, method = job.settings, METHODS[job.method]
    source = "to be generated" if job.problem.operator is None else f"from {job.acquisition.source}"
    details = [f"{name.replace('_', ' ')} {value}" for name, value in job.problem.details.items()]
    lines = [
        f"task       {', '.join([job.problem.name, *details])}",
        f"volume     {'×'.join(map(str, job.acquisition.shape))} {source}",
        *(
            f"{role:10} {prior.plane} ({job.bundles[role].folder})"
            for role, prior in zip(job.bundles, job.priors, strict=True)
        ),
        f"method     {method.title}",
    ]
    if method.n_priors != 0:
        levels = f"{s.n_steps} steps, σ {s.sigma_max:g} → {s.sigma_min:g}, seed {s.seed}"
        if "sampler" in method.reads:
            lines += [f"sampler    {s.sampler}, {levels}; {_turns(job)}", f"guidance   {_guidance(job)}"]
        else:
            lines.append(f"sampler    {levels}")
    if job.n_samples > 1:
        lines.append(f"samples    {job.n_samples}, of which mean and standard deviation")
    if "sparsity_weight" in method.reads:
        lines.append(f"sparsity   weight {s.sparsity_weight:g}")
    if method.n_priors != 0:
        lines.append(f"backend    {job.selection}")
    if job.n_ranks > 1:
        n = job.acquisition.shape[job.problem.plane.slice_axis] / job.n_ranks
        lines.append(f"ranks      {job.n_ranks}, each with about {n:.3g} slices and {job.n_threads or 'no'} threads")
    return "\n".join(lines)


def _turns(job: Job) -> str:
    plan = job.settings.plan(len(job.priors))
    if (plan == ALL).all():
        return "all priors at every step, shares " + ", ".join(f"{x:g}" for x in job.settings.shares(len(job.priors)))
    counts = [f"{int((plan == i).sum())} {role}" for i, role in enumerate(job.bundles)]
    return f"{', '.join(counts)} turns (K {job.settings.K})"


def _guidance(job: Job) -> str:
    s = job.settings
    if job.problem.operator is None:
        return "none"
    if s.guidance == "dps":
        return "dps, λ adaptive" if s.dps_weight is None else f"dps, λ {s.dps_weight:.4g}, groups of {s.group}"
    return "proximal, " + ("ρ from the noise of the measurement" if s.rho is None else f"ρ {s.rho:g} ‖A‖²")
