"""A job: everything that a run needs, checked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from engine.backends.borders import NO_FACES, Faces
from engine.backends.bundle import Bundle
from engine.backends.select import Selection
from engine.job.cost import Cost
from engine.methods import METHODS
from engine.methods.phase_choice import PhaseChoice
from engine.parallel.decomposition import UNDIVIDED, Decomposition
from engine.problems.acquisition import Acquisition
from engine.sampling.posterior_mean import Prior
from engine.sampling.problem import InverseProblem
from engine.sampling.settings import Settings


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
    phase_choice: PhaseChoice | None = None
    cut_faces: Faces = NO_FACES
    cost: Cost | None = None

    @property
    def n_steps(self) -> int:
        """Steps of a sample; none for a method without a prior."""
        return self.settings.n_steps if METHODS[self.method].n_priors != 0 else 0

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What has to be the same for the result to be the same, to the last bit."""
        y = self.problem.measurement
        return {
            "task": self.problem.name,
            "method": self.method,
            "shape": list(self.problem.shape),
            "measurement": None if y is None else digest_of(y),
            "noise level": self.problem.noise_level,
            **{f"prior {role}": key_of(bundle) for role, bundle in self.bundles.items()},
            **{f"setting {name}": value for name, value in asdict(self.settings).items()},
            "samples": self.n_samples,
            "backend": self.selection.backend,
            "precision": self.selection.precision,
        }


def digest_of(array: np.ndarray) -> str:
    """SHA-256 of an array's values in C order, read where they are: a measurement may fill half of the memory."""
    whole = hashlib.sha256()
    for part in np.atleast_2d(array):
        # No copy of what is contiguous, and of anything else one of a part.
        whole.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return whole.hexdigest()


def key_of(bundle: Bundle) -> str:
    """SHA-256 of a bundle's files."""
    return hashlib.sha256(json.dumps(bundle.manifest["files"], sort_keys=True).encode()).hexdigest()
