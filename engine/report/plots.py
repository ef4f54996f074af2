"""How a run converged, as plots within a page: data residual and noise level over the steps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from io import BytesIO

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

# Stand for colours of the page, light or dark, which a figure cannot know.
_TEXT, _GRID = "#010203", "#040506"
_PAGE = {_TEXT: "var(--muted)", _GRID: "var(--line)"}
_LINE = {"residual": "var(--accent)", "sigma": "var(--second)"}
_MARK = "#070809"
#: Inches; the page scales it.
_SIZE = (4.6, 2.7)
#: More points than this are a line without dots.
_MAX_DOTS = 60


def plot(key: str, label: str, values: Sequence[float | None]) -> str:
    """Draw positive values over the steps, 1, 2, …, on a logarithmic axis.

    Steps without a value, or with one that a logarithm has no place for, stay empty.

    Parameters
    ----------
    key : str
        "residual" or "sigma": which colour of the page.
    label : str
        What is shown, for those who cannot see it.
    values : sequence of float or None

    Returns
    -------
    str
        An SVG element without names of fonts, time or version; empty where there is no value to show.
    """
    heights = np.array([np.nan if v is None or not v > 0 else float(v) for v in values])
    if not np.isfinite(heights).any():
        return ""
    steps = np.arange(1, len(heights) + 1)
    # Names within the SVG are hashes, so that the same run gives the same bytes.
    with rc_context({"svg.hashsalt": key, "svg.fonttype": "none"}):
        figure = Figure(figsize=_SIZE, facecolor="none", layout="constrained")
        axes = figure.add_subplot(facecolor="none")
        dots = "o" if len(steps) <= _MAX_DOTS else ""
        axes.plot(steps, heights, color=_MARK, linewidth=1.8, marker=dots, markersize=3.5)
        axes.set_yscale("log")
        low, high = float(np.nanmin(heights)), float(np.nanmax(heights))
        axes.set_ylim(low / 1.3, high * 1.3)
        axes.set_xlim(0.5, len(steps) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        # Numbers like 0.02 where a decade or two are all there is, else powers of ten alone.
        ticks = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
        axes.yaxis.set_major_locator(LogLocator(subs=ticks, numticks=12))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("step", color=_TEXT, fontsize=10)
        axes.tick_params(colors=_TEXT, labelsize=10, length=0)
        axes.grid(color=_GRID, linewidth=0.8)
        for spine in axes.spines.values():
            spine.set_visible(False)
        stream = BytesIO()
        # Without entries there is no block of metadata, whose links look like addresses to fetch.
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(stream, metadata=empty)
    text = stream.getvalue().decode()
    text = text[text.index("<svg") :].strip()
    for sentinel, colour in {**_PAGE, _MARK: _LINE[key]}.items():
        text = text.replace(sentinel, colour)
    # An SVG within HTML needs no namespaces.
    for name in (' xmlns="http://www.w3.org/2000/svg"', ' xmlns:xlink="http://www.w3.org/1999/xlink"'):
        text = text.replace(name, "")
    # Names that nothing points at would stand in the page twice, and fonts are the page's.
    used = set(re.findall(r"#(\w+)", text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r"font-family: [^;]*; ", "", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
