"""Linear measurement operators on stacks of slices."""

from engine.operators.fourier import MaskedFourier
from engine.operators.linear_operator import LinearOperator
from engine.operators.radon import Radon
from engine.operators.thick_slices import ThickSlices

__all__ = ["LinearOperator", "MaskedFourier", "Radon", "ThickSlices"]
