"""Reconstruction methods by name: the product of priors, and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from engine.errors import InputError
from engine.methods import classical, dds, diffusion_mbir, total_variation, wavelet
from engine.parallel.decomposition import UNDIVIDED, Decomposition
from engine.sampling.posterior_mean import Prior
from engine.sampling.problem import InverseProblem
from engine.sampling.reconstruction import Callback, Checkpoint, Reconstruction, reconstruct, trained_range
from engine.sampling.settings import ANY, Range, Settings

#: Settings that are read by several priors, by one, and by whatever walks down noise levels.
_SEVERAL = frozenset(field.name for field in fields(Settings)) - {"sparsity_weight"}
_ONE = _SEVERAL - {"K", "mix", "alpha"}
_LEVELS = frozenset({"n_steps", "sigma_min", "sigma_max", "seed"})
_WEIGHT = frozenset({"sparsity_weight"})


@dataclass(frozen=True)
class Method:
    """A way from a measurement to a volume.

    Parameters
    ----------
    title : str
        For tables.
    n_priors : int or None
        Number of priors it takes, the first of those given; None takes all.
    solve : function
        Of problem and settings; with priors of problem, priors and settings, with `callback`, `checkpoint` and, where
        it spans ranks, `decomposition` by name. Its arguments have been checked by `solve` below.
    reads : frozenset of str
        Names of the settings that it reads; others have no effect.
    resolved : function
        Of settings, problem and trained range: the same settings with the method's numbers for None.
    n_steps : int or None
        Number of noise levels that suits it, where that is not the settings' own default.
    needs_measurement : bool
        Whether it can do nothing without one.
    fits_data : bool
        Whether its result is to explain the measurement.
    spans_ranks : bool
        Whether several ranks can share a volume.
    of_slices : bool
        Whether it needs slices that are measured each by itself.
    """

    title: str
    n_priors: int | None
    solve: Callable[..., Reconstruction]
    reads: frozenset[str] = frozenset()
    resolved: Callable[[Settings, InverseProblem, Range], Settings] = Settings.resolved
    n_steps: int | None = None
    needs_measurement: bool = True
    fits_data: bool = True
    spans_ranks: bool = False
    of_slices: bool = False


METHODS: dict[str, Method] = {
    # The product of perpendicular priors, as many as are given; and the primary one alone, which shows the gain of the
    # others. With guidance dps that is two-dimensional posterior sampling (Chung et al., ICLR 2023).
    "tpdm": Method(
        "TPDM (perpendicular priors)", None, reconstruct, _SEVERAL, needs_measurement=False, spans_ranks=True
    ),
    "single": Method("one prior, slice by slice", 1, reconstruct, _ONE, needs_measurement=False, spans_ranks=True),
    "dds": Method(
        "DDS (one prior, total variation across slices)",
        1,
        dds.solve,
        _LEVELS | _WEIGHT | {"eta"},
        dds.resolved,
        of_slices=True,
    ),
    "diffusionmbir": Method(
        "DiffusionMBIR (one prior, total variation across slices)",
        1,
        diffusion_mbir.solve,
        _LEVELS | _WEIGHT | {"group", "snr"},
        diffusion_mbir.resolved,
        n_steps=diffusion_mbir.STEPS,
        of_slices=True,
    ),
    "tv": Method("total variation, 3D", 0, total_variation.solve, _WEIGHT, total_variation.resolved),
    "wavelet": Method("sparse wavelets, 3D", 0, wavelet.solve, _WEIGHT, wavelet.resolved),
    "classical": Method(
        "classical (zero-filled, filtered back-projection, cubic)", 0, classical.solve, fits_data=False
    ),
}


def solve(
    name: str,
    problem: InverseProblem,
    priors: Sequence[Prior],
    settings: Settings,
    callback: Callback | None = None,
    checkpoint: Checkpoint | None = None,
    decomposition: Decomposition = UNDIVIDED,
) -> Reconstruction:
    """Reconstruct a volume by the method of that name.

    Parameters
    ----------
    name : str
        One of `METHODS`.
    problem : InverseProblem
    priors : sequence of Prior
        The first one's plane is the problem's; a method takes as many as it needs.
    settings : Settings
        In the result are those that were used.
    callback : function, optional
        Called after every noise level; never by methods without a prior.
    checkpoint : Checkpoint, optional
        Go on from there; methods without a prior have none.
    decomposition : Decomposition, optional
        `check` says which methods have a choice.

    Returns
    -------
    Reconstruction

    Raises
    ------
    InputError
        An unknown name, too few priors, a problem without a measurement where one is needed, or a refusal of the
        method's own.
    """
    check(name, problem, len(priors))
    method = METHODS[name]
    if method.n_priors == 0:
        return method.solve(problem, method.resolved(settings, problem, ANY))
    used = priors[: method.n_priors]
    settings = method.resolved(settings, problem, trained_range(used))
    hooks = {"decomposition": decomposition} if method.spans_ranks else {}
    return method.solve(problem, used, settings, callback=callback, checkpoint=checkpoint, **hooks)


def check(name: str, problem: InverseProblem, n_priors: int, n_ranks: int = 1) -> None:
    """Refuse what a method cannot do, before anything is computed.

    Raises
    ------
    InputError
        An unknown name, too few priors, a task without a measurement where one is needed, or more ranks than one for a
        method that does not span them.
    """
    if name not in METHODS:
        raise InputError("method", f"one of {', '.join(METHODS)}", f"'{name}'", "choose one")
    method = METHODS[name]
    if method.needs_measurement and (problem.operator is None or problem.measurement is None):
        free = " or ".join(name for name, other in METHODS.items() if not other.needs_measurement)
        raise InputError(
            "task", f"one with a measurement for the method {name}", f"'{problem.name}'", f"choose the method {free}"
        )
    if method.of_slices and not problem.is_of_slices:
        free = " or ".join(name for name, other in METHODS.items() if not other.of_slices)
        raise InputError("method", f"{free} for slices that are measured together", f"'{name}'", "choose one")
    if n_ranks > 1 and not problem.is_of_slices:
        raise InputError("ranks", "one for slices that are measured together", n_ranks, "start it alone")
    if n_ranks > 1 and not method.spans_ranks:
        several = " or ".join(name for name, other in METHODS.items() if other.spans_ranks)
        raise InputError(
            "method", f"{several} for {n_ranks} ranks", f"'{name}', which couples slices", "start it alone"
        )
    n_needed = 1 if method.n_priors is None else method.n_priors
    if n_priors < n_needed:
        raise InputError("priors", f"at least {n_needed} for the method {name}", n_priors, "pass the primary plane's")
