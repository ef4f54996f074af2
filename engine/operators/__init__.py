"""Linear measurement operators on stacks of slices."""

from engine.operators.coil_fourier import CoilFourier
from engine.operators.data_fidelity import DataFidelity
from engine.operators.fourier import MaskedFourier
from engine.operators.linear_operator import Composition, LinearOperator
from engine.operators.radon import Radon
from engine.operators.thick_slices import ThickSlices
from engine.operators.weighted import Weighted

__all__ = [
    "CoilFourier",
    "Composition",
    "DataFidelity",
    "LinearOperator",
    "MaskedFourier",
    "Radon",
    "ThickSlices",
    "Weighted",
]
