"""A checked job: everything that a run needs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from engine.backends.bundle import Bundle
from engine.backends.select import Selection
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

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What has to be the same for the result to be the same, to the last bit."""
        y = self.problem.measurement
        return {
            "task": self.problem.name,
            "method": self.method,
            "shape": list(self.acquisition.shape),
            "measurement": None if y is None else digest_of(y),
            "noise level": self.problem.noise_level,
            **{f"prior {role}": _key_of(bundle) for role, bundle in self.bundles.items()},
            **{f"setting {name}": value for name, value in asdict(self.settings).items()},
            "samples": self.n_samples,
            "backend": self.selection.backend,
            "precision": self.selection.precision,
        }


def digest_of(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes in C order, without a copy where they lie so."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def _key_of(bundle: Bundle) -> str:
    return hashlib.sha256(json.dumps(bundle.manifest["files"], sort_keys=True).encode()).hexdigest()
