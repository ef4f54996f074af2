"""Inference engine for 3D medical inverse problems with perpendicular 2D diffusion priors.

The public API, each name loaded when it is first asked for:

>>> import engine
>>> from engine import demo
>>> from engine.problems import Measurement, simulate
>>> head, priors = demo.volume(), demo.priors()
>>> problem = simulate("csmri", head.data, priors[0].plane, Measurement(acceleration=4))
>>> result = engine.reconstruct(problem, priors, engine.Settings(n_steps=4))
>>> result.volume.shape
(64, 64, 64)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.backends.priors import load_priors
    from engine.errors import InputError
    from engine.io.volumes import load_volume, save_volume
    from engine.problems import csmri, mrzsr, svct, uncond
    from engine.sampling import InverseProblem, Prior, Reconstruction, Settings, reconstruct
    from engine.volume import Plane

_HOMES = {
    "engine.backends.priors": ("load_priors",),
    "engine.errors": ("InputError",),
    "engine.io.volumes": ("load_volume", "save_volume"),
    "engine.problems": ("csmri", "mrzsr", "svct", "uncond"),
    "engine.sampling": ("InverseProblem", "Prior", "Reconstruction", "Settings", "reconstruct"),
    "engine.volume": ("Plane",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "InputError",
    "InverseProblem",
    "Plane",
    "Prior",
    "Reconstruction",
    "Settings",
    "csmri",
    "load_priors",
    "load_volume",
    "mrzsr",
    "reconstruct",
    "save_volume",
    "svct",
    "uncond",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'engine' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME_OF[name]), name)
