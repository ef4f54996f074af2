"""What the viewers of a report show: volumes on a grid that fits a page, with scales of grey and colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap
from skimage.transform import resize

from engine.report.scales import round_top, white_of

#: Voxels and side of the largest grid that is shown; more would make a page of tens of megabytes.
_MAX_VOXELS, _MAX_SIDE = 160**3, 512
#: Edge lengths that differ by less than this part look alike.
_ISOTROPIC = 0.01
#: Scales of differences end no lower, in per cent of white.
_LEAST_PERCENT = 0.1
_GREY = LinearSegmentedColormap.from_list("grey", ["#000000", "#ffffff"])
#: Black in the middle, because air is black; blue and orange, which most colour-blind people tell apart.
_SIGNED = LinearSegmentedColormap.from_list("signed", ["#a8dcff", "#1b7fe0", "#000000", "#e06a10", "#ffdda1"])
_SPREAD = LinearSegmentedColormap.from_list("spread", ["#000000", "#54157a", "#d0404f", "#fb9a2c", "#fcf3a4"])


@dataclass(frozen=True)
class Grid:
    """The voxels that are shown: isotropic, and few enough for a page.

    Parameters
    ----------
    shape : 3 ints
        Number of voxels along right, front and top.
    affine : float64 (4, 4)
        Their indices to millimetres (right, anterior, superior).
    edge_mm : float
        Edge length of a voxel.
    source_shape : 3 ints
        Number of voxels of the volumes themselves.
    source_mm : float64 (3,)
        Edge lengths of those.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    edge_mm: float
    source_shape: tuple[int, ...]
    source_mm: np.ndarray

    @classmethod
    def of(cls, shape: tuple[int, ...], affine: np.ndarray) -> Grid:
        """Cover a volume: voxels as fine as its finest, or coarser where those would be too many."""
        source_mm = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
        extent = source_mm * shape
        room = max(math.prod(extent / _MAX_VOXELS ** (1 / 3)) ** (1 / 3), float(extent.max()) / _MAX_SIDE)
        edge = max(float(source_mm.min()), room)
        shown = tuple(max(1, round(float(e) / edge)) for e in extent)
        if edge * (1 + _ISOTROPIC) >= source_mm.max():
            # Rounding must not resample what looks right as it is.
            shown = shape if edge <= source_mm.min() * (1 + _ISOTROPIC) else shown
        step = np.array(shape) / np.array(shown)
        # The volume keeps its borders, so that centres of voxels move.
        move = np.diag([*step, 1.0])
        move[:3, 3] = (step - 1) / 2
        return cls(shown, affine @ move, edge, shape, source_mm)

    @property
    def note(self) -> str:
        """What was done to show the volumes, as a sentence, empty where nothing was."""
        if self.shape == self.source_shape:
            return ""
        voxels, mm = "×".join(map(str, self.source_shape)), " × ".join(f"{e:.3g}" for e in self.source_mm)
        shown = f"{'×'.join(map(str, self.shape))} of {self.edge_mm:.3g} mm"
        why = "down-sampled to" if math.prod(self.shape) < math.prod(self.source_shape) else "interpolated to"
        return f"The {voxels} voxels of {mm} mm are {why} {shown} here; the files keep every voxel."

    @property
    def is_oblique(self) -> bool:
        """Whether planes of voxels are not those of the world's axes."""
        turn = self.affine[:3, :3] / np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return bool(np.abs(turn - np.diag(np.diag(turn))).max() > 1e-3)

    def sample(self, volume: np.ndarray) -> np.ndarray:
        """Interpolate linearly to this grid, blurred first along axes that become coarser."""
        if self.shape == self.source_shape:
            return np.asarray(volume, dtype=np.float32)
        coarser = any(a < b for a, b in zip(self.shape, self.source_shape, strict=True))
        shown = resize(volume.astype(np.float32), self.shape, order=1, mode="edge", anti_aliasing=coarser)
        return np.asarray(shown, dtype=np.float32)


@dataclass(frozen=True)
class Panel:
    """One viewer: a volume on the page's grid, what it is, and how its values become colours.

    Parameters
    ----------
    key : str
        Letters that name it in the page.
    title, note : str
        Plain text.
    data : float32 (d0, d1, d2)
    low, high : float
        Values of the first and the last colour, in the volume's units.
    labels : sequence of str
        What the colour bar says from its first to its last colour.
    colours : Colormap
    """

    key: str
    title: str
    note: str
    data: np.ndarray
    low: float
    high: float
    labels: Sequence[str]
    colours: Colormap

    @property
    def gradient(self) -> str:
        """The colours from low to high, as CSS."""
        stops = (self.colours(x)[:3] for x in np.linspace(0, 1, 9))
        return ", ".join("#" + "".join(f"{round(255 * c):02x}" for c in stop) for stop in stops)


def panels(
    grid: Grid,
    result: np.ndarray,
    classical: np.ndarray | None,
    classical_title: str,
    truth: np.ndarray | None,
    deviation: np.ndarray | None,
) -> list[Panel]:
    """List the viewers in the order in which they are compared.

    All volumes share one grey scale from 0 to white, a percentile of the truth, or of the result without one. The
    difference is that of the result from the truth, or else from the classical reconstruction.

    Parameters
    ----------
    grid : Grid
    result, classical, truth, deviation : float32, of the grid's source shape, or None
    classical_title : str
        What the classical reconstruction is called.
    """
    shown = grid.sample(result)
    reference = shown if truth is None else grid.sample(truth)
    white = white_of(reference)
    grey = (0.0, white, ("0", f"{white:.3g}"), _GREY)
    listed = [Panel("result", "Result", "what the run made", shown, *grey)]
    other, name = (reference, "truth") if truth is not None else (None, "")
    if classical is not None:
        crude = grid.sample(classical)
        listed.append(Panel("classical", _capital(classical_title), "without a prior", crude, *grey))
        if other is None:
            other, name = crude, classical_title
    if truth is not None:
        listed.append(Panel("truth", "Truth", "what the simulation measured", reference, *grey))
    if other is not None:
        difference = shown - other
        percent = round_top(100 / white * np.abs(difference), _LEAST_PERCENT)
        top, text = percent / 100 * white, f"{percent:g} % of white"
        ends = (f"−{text}", "0", f"+{text}")
        title = f"Difference: result − {name}"
        note = "orange: result is brighter, blue: darker"
        listed.append(Panel("difference", title, note, difference, -top, top, ends, _SIGNED))
    if deviation is not None:
        spread = grid.sample(deviation)
        percent = round_top(100 / white * spread, _LEAST_PERCENT)
        labels = ("0", f"{percent:g} % of white")
        note = "standard deviation of several samples, voxel by voxel"
        listed.append(Panel("uncertainty", "Uncertainty", note, spread, 0.0, percent / 100 * white, labels, _SPREAD))
    return listed


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
