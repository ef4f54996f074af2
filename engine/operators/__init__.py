"""Linear measurement operators on stacks of slices, and on volumes."""

from engine.operators.coil_fourier import CoilFourier
from engine.operators.cone_beam import ConeBeam
from engine.operators.data_fidelity import DataFidelity
from engine.operators.fourier import MaskedFourier
from engine.operators.linear_operator import Composition, LinearOperator
from engine.operators.radon import Radon
from engine.operators.stacks import Stacks
from engine.operators.thick_slices import ThickSlices
from engine.operators.volume_operator import VolumeOperator
from engine.operators.weighted import Weighted
from engine.operators.weighted_volume import WeightedVolume

__all__ = [
    "CoilFourier",
    "Composition",
    "ConeBeam",
    "DataFidelity",
    "LinearOperator",
    "MaskedFourier",
    "Radon",
    "Stacks",
    "ThickSlices",
    "VolumeOperator",
    "Weighted",
    "WeightedVolume",
]
