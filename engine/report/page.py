"""Everything about a run on one page that needs no network: ``report.html``."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.io.files import replacing
from engine.report import sections
from engine.report.mosaic import mosaic
from engine.report.scales import tissue_box, white_of
from engine.report.viewers import Grid, Panel, panels


@dataclass(frozen=True)
class Report:
    """What a report shows, as plain data.

    Parameters
    ----------
    title : str
        Of the page.
    result : float32 (d0, d1, d2)
        Axes x to the right, y to the front, z to the top.
    affine : float64 (4, 4)
        Voxel indices to millimetres (right, anterior, superior).
    classical, truth, deviation : float32 (d0, d1, d2) or None
        The reconstruction without a prior, what was measured, and the standard deviation of samples; on the result's
        grid and in its units.
    classical_title : str
        What the classical reconstruction is called, such as "zero filled".
    metrics : mapping of str to mapping, or None
        What `engine.report.metrics.per_plane` gives for "reconstruction", and under other names for whatever else was
        compared with the truth.
    residuals : sequence of float or None
        Data residual after every step; None where there is none.
    sigmas : sequence of float
        Noise level of every step.
    plan : sequence of str
        Lines, a term and what it means apart by two spaces or more.
    settings : mapping
        Numbers, strings, sequences and mappings of these.
    record : mapping
        Content of ``run.json``.
    command : str
        What repeats the run.
    warnings : sequence of str
        What the run complained about.
    """

    title: str
    result: np.ndarray
    affine: np.ndarray
    classical: np.ndarray | None = None
    truth: np.ndarray | None = None
    deviation: np.ndarray | None = None
    classical_title: str = "classical reconstruction"
    metrics: Mapping[str, Mapping[str, Any]] | None = None
    residuals: Sequence[float | None] = ()
    sigmas: Sequence[float] = ()
    plan: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    warnings: Sequence[str] = ()


def write_report(path: str | Path, content: Report) -> None:
    """Write a page that shows a run, whole or not at all.

    The file holds everything it needs; its own security policy forbids a browser to fetch anything, and to run any
    script but the page's. Text from the run is shown as text whatever it holds. The same content gives the same bytes.

    Parameters
    ----------
    path : path
        Ends in ``.html``.
    content : Report

    Raises
    ------
    InputError
        A path of another kind, volumes of a rank other than 3 or of different shapes, NaN or infinite voxels, an
        affine that is not finite and invertible, metrics without "reconstruction", or a record that JSON cannot hold.
    """
    path = Path(path)
    _check(path, content)
    affine = np.asarray(content.affine, dtype=np.float64)
    grid = Grid.of(content.result.shape, affine)
    shown = panels(grid, content.result, content.classical, content.classical_title, content.truth, content.deviation)
    page = _page(content, grid, shown)
    with replacing(path) as temporary:
        # Names of files may hold what is no letter in any encoding.
        temporary.write_bytes(page.encode("utf-8", "backslashreplace"))


def _page(content: Report, grid: Grid, shown: Sequence[Panel]) -> str:
    style, script = (
        resources.files("engine.report").joinpath(name).read_text(encoding="utf-8")
        for name in ("page.css", "viewer.js")
    )
    reference = next((panel for panel in shown if panel.key == "truth"), shown[0]).data
    first, last = tissue_box(reference, white_of(reference))
    cut = ((first + last) // 2).tolist()
    viewers = [panel.key for panel in shown]
    page_data = {"shape": list(grid.shape), "affine": grid.affine.tolist(), "cut": cut, "viewers": viewers}
    # As data, which no browser runs; the sign that could end the element is written as its code.
    data = json.dumps(page_data).replace("<", "\\u003c")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_digest(script)}'"
    body = [
        sections.viewers(shown, [mosaic(panel) for panel in shown], grid),
        sections.metrics_table(content.metrics),
        sections.convergence(content.residuals, content.sigmas),
        sections.plan_table(content.plan),
        sections.settings_tables(content.settings),
        sections.command_box(content.command),
        sections.record_box(content.record),
    ]
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            # Else a browser asks a server for an icon.
            '<link rel="icon" href="data:,">',
            f"<title>{escape(content.title)}</title>",
            f"<style>{style}</style>\n</head>\n<body>",
            f"<header><h1>{escape(content.title)}</h1>",
            f'<p class="muted">{escape(_summary(content))}</p>',
            sections.cards(content.metrics),
            sections.warning_box(content.warnings),
            "</header>\n<main>",
            *filter(None, body),
            "</main>\n<footer>For research, not for diagnosis.</footer>",
            f'<script type="application/json" id="page-data">{data}</script>',
            f"<script>{script}</script>\n</body>\n</html>\n",
        ]
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _summary(content: Report) -> str:
    edges = np.sqrt((np.asarray(content.affine, dtype=np.float64)[:3, :3] ** 2).sum(axis=0))
    voxels, mm = "×".join(map(str, content.result.shape)), " × ".join(f"{e:.3g}" for e in edges)
    return f"{voxels} voxels of {mm} mm"


def _check(path: Path, content: Report) -> None:
    if path.suffix != ".html":
        raise InputError("path", "a name that ends in .html", f"'{path.name}'", "rename it")
    shape = content.result.shape
    if len(shape) != 3 or 0 in shape:
        raise InputError("result", "rank 3 with no empty axis", f"shape {shape}", "give a single volume")
    for name in ("result", "classical", "truth", "deviation"):
        volume = getattr(content, name)
        if volume is None:
            continue
        if volume.shape != shape:
            raise InputError(name, f"the result's shape {shape}", volume.shape, "resample to one grid")
        if not np.isfinite(volume).all():
            raise InputError(name, "finite voxels", "NaN or infinity", "check the run")
    affine = np.asarray(content.affine, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        raise InputError("affine", "4×4 finite, independent axes", f"{affine.tolist()}", "take the volume's")
    if content.metrics and sections.RESULT not in content.metrics:
        raise InputError(
            "metrics", f"'{sections.RESULT}'", f"{list(content.metrics)}", "compare the result with the truth"
        )
    for name in ("residuals", "sigmas"):
        bad = [value for value in getattr(content, name) if value is not None and not math.isfinite(value)]
        if bad:
            raise InputError(name, "finite numbers or None", f"{bad[0]}", "check the run")
    try:
        json.dumps(content.record)
    except (TypeError, ValueError) as error:
        raise InputError("record", "what JSON can hold", f"a value it cannot ({error})", "convert it") from error
