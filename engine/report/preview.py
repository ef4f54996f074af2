"""One picture that shows how a run went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from engine.errors import InputError
from engine.io.files import replacing
from engine.report.metrics import psnr
from engine.report.scales import round_top, tissue_box, white_of

# Black, because air is black: the panels then have no edges.
_BACKGROUND, _TEXT, _MUTED = "#000000", "#f2f2f2", "#9aa0a8"
_GREY_MAP, _ERROR_MAP = "gray", "inferno"
_FONT = "DejaVu Sans"  # comes with Matplotlib, so pictures look alike everywhere
_DPI = 160
# Inches. Panels are equally wide and as high as their plane needs.
#: Least and greatest height of a panel, in its width.
_FLATTEST, _TALLEST = 0.15, 4.0
_PANEL, _GAP, _EDGE, _HEAD, _FOOT = 2.3, 0.08, 0.14, 0.56, 0.5
#: Share of the tissue's extent left free on every side of it.
_FREE = 0.07
#: The scale of errors ends no lower, in per cent of white.
_LEAST_PERCENT = 1.0
#: Characters of a title that fit a panel's width.
_TITLE_LENGTH = 22


@dataclass(frozen=True)
class _View:
    """How a plane is shown: the axis it cuts, those that run across and up, and what lies left and on top."""

    name: str
    cut: int
    across: int
    up: int
    left: str
    top: str


# Radiological: the patient's right, and in sagittal the front, on the left of the picture; the front or the top up.
_VIEWS = (
    _View("axial", 2, 0, 1, "R", "A"),
    _View("coronal", 1, 0, 2, "R", "S"),
    _View("sagittal", 0, 1, 2, "A", "S"),
)


@dataclass(frozen=True)
class _Frame:
    """Where to cut and how much to show: the middle voxel, the size of a voxel, and the ends of the shown box in mm."""

    middle: tuple[int, ...]
    edges_mm: np.ndarray
    low_mm: np.ndarray
    high_mm: np.ndarray

    @classmethod
    def around(cls, volume: np.ndarray, white: float, edges_mm: np.ndarray) -> _Frame:
        """Frame the tissue's bounding box, or everything where there is no tissue."""
        first, last = tissue_box(volume, white)
        free = _FREE * (last + 1 - first) * edges_mm
        middle = tuple(int(m) for m in (first + last) // 2)
        return cls(middle, edges_mm, first * edges_mm - free, (last + 1) * edges_mm + free)

    @property
    def size_mm(self) -> np.ndarray:
        return self.high_mm - self.low_mm

    @property
    def width_mm(self) -> float:
        """Width of all panels: that of the widest view."""
        return float(max(self.size_mm[view.across] for view in _VIEWS))

    def slices_of(self, volume: np.ndarray) -> list[np.ndarray]:
        """Return one (across, up) slice per view."""
        return [np.take(volume, self.middle[view.cut], axis=view.cut) for view in _VIEWS]


@dataclass(frozen=True)
class _Column:
    title: str
    caption: str
    slices: list[np.ndarray]
    top: float
    colours: str


def write_preview(
    path: str | Path,
    volumes: Mapping[str, np.ndarray],
    truth_key: str | None = None,
    result_key: str = "result",
    voxel_mm: float | Sequence[float] | np.ndarray = 1.0,
) -> None:
    """Draw the middle slices of every volume as a PNG, atomically.

    Rows are axial, coronal and sagittal, cut through the middle of the tissue, in radiological view; columns are the
    volumes in their order. With a truth, titles carry the PSNR over the whole volume (peak: the truth's max − min),
    and a last column shows the absolute error of the result. All volumes share one grey scale, from 0 to white; white
    is the 99.5th percentile of the positive voxels of the truth, or of the result where there is no truth. The error
    is in per cent of white, on a scale of its own.

    Parameters
    ----------
    path : path
        Ends in ``.png``.
    volumes : mapping of str to float32 (d0, d1, d2)
        Title to volume; axes x to the right, y to the front, z to the top; equal shapes.
    truth_key : str, optional
        Which of the volumes is the truth.
    result_key : str
        Which of the volumes is the result. Without a truth it may be missing, and the first volume stands in.
    voxel_mm : float or 3 floats
        Edge lengths of a voxel along the three axes, in mm.

    Raises
    ------
    InputError
        No volumes, a rank other than 3, different shapes, NaN or infinite voxels, a key that is not among the volumes,
        an edge length that is not positive, or a path of another kind.
    """
    path = Path(path)
    edges_mm = np.asarray(voxel_mm, dtype=np.float64)
    _check(path, volumes, truth_key, result_key, edges_mm)
    result = volumes[result_key] if result_key in volumes else next(iter(volumes.values()))
    truth = None if truth_key is None else volumes[truth_key]
    reference = result if truth is None else truth
    white = white_of(reference)
    frame = _Frame.around(reference, white, np.broadcast_to(edges_mm, 3))

    columns = []
    for name, volume in volumes.items():
        slices = [image * (100 / white) for image in frame.slices_of(volume)]
        columns.append(_Column(_elided(name), _caption(volume, truth), slices, 100.0, _GREY_MAP))
    if truth is not None:
        pairs = zip(frame.slices_of(result), frame.slices_of(truth), strict=True)
        errors = [np.abs(a - b) * (100 / white) for a, b in pairs]
        caption = f"|{_elided(result_key)} − {_elided(str(truth_key))}|"
        top = round_top(np.concatenate([e.ravel() for e in errors]), _LEAST_PERCENT)
        columns.append(_Column("error", caption, errors, top, _ERROR_MAP))
    _save(_drawn(columns, frame), path)


def _check(
    path: Path,
    volumes: Mapping[str, np.ndarray],
    truth_key: str | None,
    result_key: str,
    edges_mm: np.ndarray,
) -> None:
    if path.suffix != ".png":
        raise InputError("path", "a name that ends in .png", f"'{path.name}'", "rename it")
    if not volumes:
        raise InputError("volumes", "at least one volume", "none", "give the result")
    needed = [] if truth_key is None else [("truth_key", truth_key), ("result_key", result_key)]
    for argument, key in needed:
        if key not in volumes:
            raise InputError(argument, f"one of {list(volumes)}", f"'{key}'", "add that volume")
    shapes = {name: volume.shape for name, volume in volumes.items()}
    if len(set(shapes.values())) > 1 or any(len(s) != 3 or 0 in s for s in shapes.values()):
        raise InputError("volumes", "rank 3 and one shape", shapes, "resample to one grid")
    for name, volume in volumes.items():
        if not np.isfinite(volume).all():
            raise InputError("volumes", "finite voxels", f"NaN or infinity in '{name}'", "check the run")
    if edges_mm.shape not in ((), (3,)) or not (np.isfinite(edges_mm) & (edges_mm > 0)).all():
        raise InputError("voxel_mm", "one or three positive lengths", edges_mm, "take them from the affine")


def _caption(volume: np.ndarray, truth: np.ndarray | None) -> str:
    if truth is None or volume is truth:
        return ""
    peak = float(truth.max()) - float(truth.min())
    return f"PSNR {psnr(truth, volume, peak):.1f} dB" if peak > 0 else ""


def _elided(text: str) -> str:
    return text if len(text) <= _TITLE_LENGTH else text[: _TITLE_LENGTH - 1] + "…"


def _drawn(columns: list[_Column], frame: _Frame) -> Figure:
    # A volume far longer than wide is drawn smaller, between black bars: figures have an end.
    shares = [float(frame.size_mm[view.up]) / frame.width_mm for view in _VIEWS]
    heights = [_PANEL * min(max(share, _FLATTEST), _TALLEST) for share in shares]
    head = _HEAD if any(c.caption for c in columns) else 0.6 * _HEAD
    width = 2 * _EDGE + len(columns) * (_PANEL + _GAP) - _GAP
    height = head + sum(heights) + 2 * _GAP + _FOOT
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=_BACKGROUND)
    canvas = _Inches(figure, width, height)
    for i, column in enumerate(columns):
        left = _EDGE + i * (_PANEL + _GAP)
        canvas.write(left + _PANEL / 2, 0.2, column.title, 12, _TEXT, weight="bold")
        canvas.write(left + _PANEL / 2, 0.41, column.caption, 9.5, _MUTED)
        top = head
        for view, image, panel in zip(_VIEWS, column.slices, heights, strict=True):
            _show(canvas.axes(left, top, _PANEL, panel), image, view, column, frame)
            if i == 0:
                canvas.write(left + 0.02, top + 0.1, view.name, 8.5, _MUTED, ha="left")
                canvas.write(left + 0.02, top + panel / 2, view.left, 8.5, _MUTED, ha="left")
                canvas.write(left + _PANEL / 2, top + 0.1, view.top, 8.5, _MUTED)
            top += panel + _GAP
    _scales(canvas, columns, height - _FOOT)
    return figure


def _show(axes: Axes, image: np.ndarray, view: _View, column: _Column, frame: _Frame) -> None:
    across_mm = float(image.shape[0] * frame.edges_mm[view.across])
    up_mm = float(image.shape[1] * frame.edges_mm[view.up])
    axes.imshow(
        image.T,
        origin="lower",
        extent=(0.0, across_mm, 0.0, up_mm),
        cmap=column.colours,
        vmin=0,
        vmax=column.top,
        interpolation="bicubic",
    )
    centre = (frame.low_mm[view.across] + frame.high_mm[view.across]) / 2
    # Right and front are at high indices and belong on the left: the horizontal axis runs backwards.
    axes.set_xlim(centre + frame.width_mm / 2, centre - frame.width_mm / 2)
    axes.set_ylim(frame.low_mm[view.up], frame.high_mm[view.up])


def _scales(canvas: _Inches, columns: list[_Column], top: float) -> None:
    """Draw one colour bar for all volumes and one for the error."""
    bars = [(0, columns[0], "intensity, % of white")]
    if columns[-1].colours == _ERROR_MAP:
        bars.append((len(columns) - 1, columns[-1], "absolute error, % of white"))
    for i, column, label in bars:
        left = _EDGE + i * (_PANEL + _GAP)
        axes = canvas.axes(left + 0.2, top + 0.1, _PANEL - 0.4, 0.07)
        colours = ScalarMappable(Normalize(0, column.top), column.colours)
        bar = canvas.figure.colorbar(colours, cax=axes, orientation="horizontal")
        bar.outline.set_visible(False)
        bar.set_ticks([])
        canvas.write(left + 0.14, top + 0.135, "0", 8.5, _MUTED, ha="right")
        canvas.write(left + _PANEL - 0.16, top + 0.135, f"{column.top:g}", 8.5, _MUTED, ha="left")
        canvas.write(left + _PANEL / 2, top + 0.3, label, 8.5, _MUTED)


class _Inches:
    """Places things on a figure in inches from its upper left corner."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure, self._width, self._height = figure, width, height

    def write(
        self, x: float, y: float, text: str, size: float, colour: str, ha: str = "center", weight: str = "normal"
    ) -> None:
        self.figure.text(
            x / self._width,
            1 - y / self._height,
            text,
            size=size,
            color=colour,
            ha=ha,
            va="center",
            weight=weight,
            family=_FONT,
            parse_math=False,  # a "$" in a name is no formula
            path_effects=[withStroke(linewidth=2, foreground=_BACKGROUND)],  # legible on white tissue
        )

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        axes = self.figure.add_axes(
            (left / self._width, 1 - (top + height) / self._height, width / self._width, height / self._height)
        )
        axes.set_facecolor(_BACKGROUND)
        axes.set_axis_off()
        return axes


def _save(figure: Figure, path: Path) -> None:
    buffer = BytesIO()
    # Without a version in it, the same volumes give the same bytes.
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
