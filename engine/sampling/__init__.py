"""The algorithm: from an inverse problem and its priors to a volume; no file, no task name, no option."""

from engine.sampling.posterior_mean import Prior
from engine.sampling.problem import InverseProblem
from engine.sampling.reconstruction import Reconstruction, reconstruct
from engine.sampling.settings import Settings

__all__ = ["InverseProblem", "Prior", "Reconstruction", "Settings", "reconstruct"]
