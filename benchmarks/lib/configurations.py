"""What the quality benchmark compares: problems, configurations of methods, and sweeps of single settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.peers.bart import PEERS
from engine.errors import InputError
from engine.job.choices import PRESETS
from engine.methods import METHODS
from engine.problems.tasks import Measurement
from engine.sampling.reconstruction import Settings
from engine.volume import NAMED_PLANES

#: λ of the published sampler is searched for among these multiples of its default, in short runs: that
#: rule carries a multiple over to other numbers of steps.
MULTIPLES = (0.3, 1.0, 3.0, 10.0)
SEARCH_STEPS = 100
PC_STEPS = 1000
#: The published sampler to the letter, but for the limit on its steps, which long runs hardly ever meet.
_PC = {"sampler": "pc", "guidance": "dps"}
_ADAPTIVE = f"published sampler, {SEARCH_STEPS} steps, adaptive λ"


@dataclass(frozen=True)
class Problem:
    """A measurement, simulated alike for every configuration.

    Parameters
    ----------
    name, title : str
    task : str
        Of `engine.problems.tasks`.
    how : mapping
        Fields of `Measurement`.
    views_part : int
        svct: what part of a full scan's views is taken, 5 for a fifth. A full scan has π/2 views a pixel.
    planes : tuple of str
        The measured plane, the perpendicular one, and the third.
    K : int or float
        Published with the published sampler.
    """

    name: str
    title: str
    task: str
    how: Mapping[str, Any] = field(default_factory=dict)
    views_part: int = 0
    planes: tuple[str, ...] = ("axial", "coronal", "sagittal")
    K: int | float = 2

    def measurement(self, n_pixels: int) -> Measurement:
        """How it is simulated for slices of so many pixels a side."""
        if self.views_part:
            return Measurement(views=max(1, round(math.pi / 2 * n_pixels / self.views_part)))
        return Measurement(**self.how)

    def takes(self, planes: Sequence[str]) -> bool:
        """Whether the first plane can be the measured one: thick slices are not seen in slices along them."""
        return self.task != "mrzsr" or planes[0] != "axial"


#: Planes that show thick axial slices come first.
_OF_THICK = ("coronal", "sagittal", "axial")

#: Within a task, the harder ones last.
PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem("csmri-4", "CS-MRI ×4", "csmri", {"acceleration": 4.0}),
        Problem("csmri-8", "CS-MRI ×8", "csmri", {"acceleration": 8.0}),
        Problem("svct-5", "SV-CT, a fifth of the views", "svct", views_part=5, K=2.7),
        Problem("svct-9", "SV-CT, a ninth of the views", "svct", views_part=9, K=2.7),
        *(
            Problem(f"mrzsr-{name}", f"MR-ZSR {title}, thick axial slices", "mrzsr", how, planes=_OF_THICK)
            for name, title, how in (
                ("4", "×4", {"factor": 4}),
                ("5", "×5", {"factor": 5}),
                ("6", "×6", {"factor": 6}),
                ("5-gap", "×5, a gap of 1", {"factor": 5, "gap": 1.0}),
                ("5-gaussian", "×5, Gaussian profile", {"factor": 5, "slice_profile": "gaussian"}),
            )
        ),
    )
}


@dataclass(frozen=True)
class Configuration:
    """A method with its settings.

    Parameters
    ----------
    name, title : str
    method : str
        Of `engine.methods`, or of `benchmarks.peers.bart`.
    settings : mapping
        Fields of `Settings` that are not the defaults.
    weight : float or None
        λ as a multiple of the default one.
    is_searched : bool
        Whether `weight` is still to be found.
    planes : tuple of str or None
        Of the priors, the measured one first; None: the problem's.
    n_planes : int
        How many of the problem's.
    group : str
        "main"; "steps", the same at other numbers of steps; "search", runs that look for λ; or "sweep" and what of.
    """

    name: str
    title: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    weight: float | None = None
    is_searched: bool = False
    planes: tuple[str, ...] | None = None
    n_planes: int = 2
    group: str = "main"

    def settings_for(self, seed: int) -> Settings:
        """Its settings, but for λ."""
        return Settings(**self.settings, seed=seed)

    @property
    def n_priors(self) -> int | None:
        """As of `Method`; none of what others wrote."""
        return METHODS[self.method].n_priors if self.method in METHODS else 0

    @property
    def uses_priors(self) -> bool:
        return self.n_priors != 0

    def serves(self, problem: Problem) -> bool:
        """Whether there is such a method for the problem, and its slices can be measured."""
        if self.method in PEERS and problem.task != "csmri":
            return False
        return self.planes is None or problem.takes(self.planes)

    def planes_for(self, problem: Problem) -> tuple[str, ...]:
        """Of the priors that work; the first of them, or without any the problem's first, is measured."""
        return (self.planes or problem.planes[: self.n_planes])[: self.n_priors]

    def measured_plane(self, problem: Problem) -> str:
        return (self.planes or problem.planes)[0]

    def for_problem(self, problem: Problem) -> Configuration:
        """The same, with what was published for the problem where the sampler is the published one."""
        if self.settings.get("sampler") != "pc":
            return self
        return replace(self, settings={"K": problem.K, **self.settings})

    def at(self, n_steps: int) -> Configuration:
        """The same with another number of steps."""
        title = f"{self.title}, {n_steps} steps"
        settings = {**self.settings, "n_steps": n_steps}
        return replace(self, name=f"{self.name}-{n_steps}", title=title, settings=settings, group="steps")


def configurations(pc_steps: int = PC_STEPS) -> dict[str, Configuration]:
    """Everything that is compared, by name."""
    long = {**_PC, "n_steps": pc_steps}
    found = (
        Configuration("fast", "fast", "tpdm", PRESETS["fast"]),
        Configuration("fast-three", "fast, three planes", "tpdm", PRESETS["fast"], n_planes=3),
        Configuration("balanced", "balanced", "tpdm", PRESETS["balanced"]),
        # One network pass a step, as the two planes share: equal evaluations.
        Configuration("fast-one", "fast, one plane", "single", PRESETS["fast"]),
        Configuration("pc", "published sampler", "tpdm", long, is_searched=True),
        Configuration("pc-one", "published sampler, one plane", "single", long, is_searched=True),
        # Beside the short runs that look for a fixed λ.
        Configuration("pc-adaptive", _ADAPTIVE, "tpdm", {**_PC, "n_steps": min(SEARCH_STEPS, pc_steps)}),
        # DiffusionMBIR asks twice a step.
        Configuration("dds", "DDS", "dds", {"n_steps": PRESETS["fast"]["n_steps"]}),
        Configuration("dds-100", "DDS, 100 steps", "dds", {"n_steps": 100}, group="steps"),
        Configuration("diffusionmbir", "DiffusionMBIR", "diffusionmbir", {"n_steps": METHODS["diffusionmbir"].n_steps}),
        Configuration("tv", "total variation", "tv"),
        Configuration("wavelet", "sparse wavelets", "wavelet"),
        Configuration("classical", "classical", "classical"),
        *(Configuration(name, title, name) for name, (title, _) in PEERS.items()),
    )
    return {configuration.name: configuration for configuration in found}


#: What "best classical" chooses from.
WITHOUT_NETWORK = ("classical", "tv", "wavelet")


def search(pc_steps: int) -> list[Configuration]:
    """The short runs of the published sampler that look for its λ."""
    n_steps = min(SEARCH_STEPS, pc_steps)
    return [_short_pc(weight, n_steps, "search") for weight in MULTIPLES]


def _short_pc(weight: float, n_steps: int, group: str) -> Configuration:
    name, title = f"pc-{n_steps}-x{weight:g}", f"published sampler, {n_steps} steps, λ × {weight:g}"
    return Configuration(name, title, "tpdm", {**_PC, "n_steps": n_steps}, weight=weight, group=group)


def with_weight(configuration: Configuration, weight: float) -> Configuration:
    """A searched configuration with what was found."""
    title = f"{configuration.title}, λ × {weight:g}"
    return replace(configuration, title=title, weight=weight, is_searched=False)


def at_steps(chosen: Sequence[Configuration], numbers: Sequence[int]) -> list[Configuration]:
    """Those with a network, the published sampler left out, at other numbers of steps than their own."""
    found: list[Configuration] = []
    for configuration in chosen:
        if configuration.uses_priors and configuration.settings.get("sampler") != "pc":
            for n_steps in numbers:
                other = configuration.at(n_steps)
                # A number that is its own, or another configuration's.
                if all(_work(other) != _work(known) for known in (*chosen, *found)):
                    found.append(other)
    return found


def _work(configuration: Configuration) -> tuple[str, Settings]:
    return configuration.method, configuration.settings_for(0)


def sweep(text: str) -> list[Configuration]:
    """Read NAME=v1,v2,…: "fast" with one setting changed, or for dps_weight short runs of the published sampler.

    Values of dps_weight are multiples of the default λ; those of planes are joined by "+", the measured one first;
    alpha weighs planes that are summed.

    Raises
    ------
    InputError
        Another name, or a value that does not suit it.
    """
    name, _, values = text.partition("=")
    if name not in SWEEPS or not values:
        raise InputError("sweep", f"NAME=v1,v2,… with one of {', '.join(SWEEPS)}", f"'{text}'", "choose one")
    return [_swept(name, value) for value in values.split(",")]


SWEEPS = ("K", "planes", "dps_weight", "rho", "eta", "noise_scale", "steps", "alpha", "mix")


def _swept(name: str, value: str) -> Configuration:
    group, label = f"sweep {name}", f"{name} {value}"
    if name == "planes":
        planes = tuple(value.split("+"))
        if len(set(planes)) < len(planes) or not set(planes) <= set(NAMED_PLANES):
            raise InputError("sweep", f"different planes of {', '.join(NAMED_PLANES)}", f"'{value}'", "mend it")
        return Configuration(f"fast {label}", f"fast, {label}", "tpdm", PRESETS["fast"], planes=planes, group=group)
    settings: dict[str, Any]
    try:
        number = 0.0 if name == "mix" else float(value)
        if name == "dps_weight":
            Settings(dps_weight=number)
            return _short_pc(number, SEARCH_STEPS, group)
        if name == "mix":
            settings = {"mix": value}
        elif name == "steps":
            settings = {"n_steps": int(value)}
        elif name == "K":
            settings = {"K": float(value) if "." in value else int(value)}
        elif name == "alpha":
            settings = {"alpha": number, "mix": "sum"}
        else:
            settings = {name: number}
    except InputError:
        raise
    except ValueError:
        raise InputError("sweep", f"numbers for {name}", f"'{value}'", "mend it") from None
    settings = {**PRESETS["fast"], **settings}
    Settings(**settings)
    return Configuration(f"fast {label}", f"fast, {label}", "tpdm", settings, group=group)
