"""The sections of a report as HTML, in which all that comes from a run is plain text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from engine.report.plots import plot
from engine.report.viewers import Grid, Panel
from engine.volume import NAMED_PLANES

#: Under this name stand the figures of the result.
RESULT = "reconstruction"


def cards(metrics: Mapping[str, Mapping[str, Any]] | None) -> str:
    """The figures that are read first; empty without a truth."""
    if not metrics:
        return ""
    ours = metrics[RESULT]
    cards = [
        (f"{ours['psnr_db']:.1f} dB", "PSNR of the whole volume"),
        (f"{_mean_ssim(ours):.3f}", "SSIM, mean of three planes"),
    ]
    for name, figures in metrics.items():
        if name != RESULT:
            cards.append((f"{_signed(ours['psnr_db'] - figures['psnr_db'], 1)} dB", f"PSNR over {_words(name)}"))
    return '<div class="cards">' + "".join(_card(*pair) for pair in cards) + "</div>"


def warning_box(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in warnings)
    return f'<div class="box warnings" role="note"><h3>Warnings</h3><ul>{items}</ul></div>'


def viewers(panels: Sequence[Panel], mosaics: Sequence[str], grid: Grid) -> str:
    """The viewers, what moves their cut, and what has to be known to read them."""
    names = {"X": "sagittal", "Y": "coronal", "Z": "axial"}
    sliders = "".join(
        f'<label><span class="name">{name}</span>'
        f'<input type="range" id="cut-{axis}" min="0" max="{n - 1}" step="1"><output id="mm-{axis}"></output></label>'
        for (axis, name), n in zip(names.items(), grid.shape, strict=True)
    )
    switches = (
        '<label class="switch"><input type="checkbox" id="crosshair" checked> crosshair</label>'
        '<label class="switch wide"><input type="checkbox" id="large"> large</label>'
    )
    figures = "".join(_viewer(*pair, grid) for pair in zip(panels, mosaics, strict=True))
    notes = [
        "Click or drag in a plane, use arrow and page keys, or move a slider: all viewers follow.",
        "Radiological convention: the patient's right (R) is on the left of coronal and axial planes; "
        "in sagittal planes the front (A) is on the right.",
        "All grey volumes share one scale, from 0 (black) to white.",
        grid.note,
        "The volume is oblique: planes follow its own axes, positions in mm are those of the world." * grid.is_oblique,
    ]
    return (
        "<h2>Volumes</h2><noscript><p>The viewers need JavaScript.</p></noscript>"
        f'<div class="controls">{sliders}{switches}</div><div class="viewers" id="viewers">{figures}</div>'
        f'<p class="note">{escape(" ".join(n for n in notes if n))}</p>'
    )


def _viewer(panel: Panel, mosaic: str, grid: Grid) -> str:
    across, deep, _ = grid.shape
    ends = (("sagittal", "P", "A"), ("coronal", "R", "L"), ("axial", "R", "L"))
    planes = "".join(f"<span><b>{left}</b>{name}<b>{right}</b></span>" for name, left, right in ends)
    bar = "".join(f"<span>{escape(label)}</span>" for label in panel.labels)
    return (
        f'<figure class="viewer"><figcaption><h3>{escape(panel.title)}</h3>'
        f'<span class="note">{escape(panel.note)}</span></figcaption>'
        f'<div class="planes" style="grid-template-columns:{deep}fr {across}fr {across}fr">{planes}</div>'
        f'<div class="screen"><canvas id="canvas-{panel.key}" role="img" tabindex="0" '
        f'aria-label="{escape(panel.title)}, three planes; arrow keys and page keys move the cut"></canvas>'
        f'<img id="sprite-{panel.key}" alt="" src="data:image/png;base64,{mosaic}"></div>'
        f'<div class="bar"><i style="background:linear-gradient(90deg,{panel.gradient})"></i>'
        f"<span>{bar}</span></div></figure>"
    )


def metrics_table(metrics: Mapping[str, Mapping[str, Any]] | None) -> str:
    """PSNR and SSIM of all that was compared with the truth, and the gain over the other where it is one."""
    if not metrics:
        return ""
    columns = {_words(name): _figures(figures) for name, figures in metrics.items()}
    others = [figures for name, figures in metrics.items() if name != RESULT]
    ours = _figures(metrics[RESULT])
    theirs = _figures(others[0]) if len(others) == 1 else {}
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    rows = []
    for label, value in ours.items():
        places = 3 if "SSIM" in label else 2
        cells = "".join(f"<td>{figures[label]:.{places}f}</td>" for figures in columns.values())
        if theirs:
            cells += f'<td class="gain">{_signed(value - theirs[label], places)}</td>'
        rows.append(f'<tr><th scope="row">{label}</th>{cells}</tr>')
    head += '<th scope="col" class="gain">gain</th>' if theirs else ""
    return (
        '<h2>Agreement with the truth</h2><div class="box"><table class="figures"><thead><tr><th></th>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f'<p class="note">Peak: the range of the truth, {metrics[RESULT]["data_range"]:.4g}. Figures of a plane are '
        "means over its slices that are not empty.</p>"
    )


def convergence(residuals: Sequence[float | None], sigmas: Sequence[float]) -> str:
    """Plots of data residual and noise level, and their values as a table."""
    drawn = [
        ("Data residual ‖A x̂₀ − y‖", plot("residual", "data residual over the steps, logarithmic", residuals)),
        ("Noise level σ", plot("sigma", "noise level over the steps, logarithmic", sigmas)),
    ]
    plots = "".join(f'<div class="box"><h3>{escape(title)}</h3>{svg}</div>' for title, svg in drawn if svg)
    if not plots:
        return ""
    n_steps = max(len(residuals), len(sigmas))
    head = "<tr><th>step</th><th>σ</th><th>residual</th></tr>"
    rows = "".join(
        f"<tr><td>{i + 1}</td><td>{_number_at(sigmas, i)}</td><td>{_number_at(residuals, i)}</td></tr>"
        for i in range(n_steps)
    )
    return (
        f'<h2>Convergence</h2><div class="two">{plots}</div><details><summary>Values of {n_steps} steps</summary>'
        '<div class="box scroll"><table class="figures"><thead>'
        f"{head}</thead><tbody>{rows}</tbody></table></div></details>"
    )


def plan_table(plan: Sequence[str]) -> str:
    """The plan: what stands before a gap of spaces names the rest of its line."""
    if not plan:
        return ""
    rows = []
    for line in plan:
        term, *rest = re.split(r"\s{2,}", line.strip(), maxsplit=1)
        rows.append(_term(term, rest[0]) if rest else f'<tr><td colspan="2">{escape(term)}</td></tr>')
    return f'<h2>Plan</h2><div class="box"><table class="terms">{"".join(rows)}</table></div>'


def settings_tables(settings: Mapping[str, Any]) -> str:
    """Nested settings: a table for every group, those within it as dotted names."""
    if not settings:
        return ""
    single = {name: value for name, value in settings.items() if not isinstance(value, Mapping)}
    groups = {name: value for name, value in settings.items() if isinstance(value, Mapping) and value}
    tables = [_settings("", single)] if single else []
    tables += [_settings(_words(str(name)), group) for name, group in groups.items()]
    return f'<h2>Settings</h2><div class="two loose">{"".join(tables)}</div>'


def command_box(command: str) -> str:
    if not command:
        return ""
    return f'<h2>Run again</h2><div class="box"><pre><code>{escape(command)}</code></pre></div>'


def record_box(record: Mapping[str, Any]) -> str:
    if not record:
        return ""
    text = json.dumps(record, indent=2, ensure_ascii=False)
    return (
        f"<h2>Record</h2><details><summary>run.json, {len(text.splitlines())} lines</summary>"
        f'<div class="box scroll"><pre>{escape(text)}</pre></div></details>'
    )


def _settings(title: str, group: Mapping[str, Any]) -> str:
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    rows = "".join(_term(name, text) for name, text in _flat(group))
    return f'<div class="box"><table class="terms">{caption}{rows}</table></div>'


def _flat(group: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in group.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _text(value)


def _text(value: Any) -> str:
    if value is None or value == {}:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "—"
    return str(value)


def _term(term: str, text: str) -> str:
    return f'<tr><th scope="row">{escape(term)}</th><td>{escape(text)}</td></tr>'


def _card(figure: str, label: str) -> str:
    return f'<div class="card"><b>{escape(figure)}</b><span>{escape(label)}</span></div>'


def _figures(figures: Mapping[str, Any]) -> dict[str, float]:
    values = {"volume PSNR, dB": float(figures["psnr_db"])}
    for plane in NAMED_PLANES:
        values[f"{plane} PSNR, dB"] = float(figures[plane]["psnr_db"])
        values[f"{plane} SSIM"] = float(figures[plane]["ssim"])
    return values


def _mean_ssim(figures: Mapping[str, Any]) -> float:
    return math.fsum(figures[plane]["ssim"] for plane in NAMED_PLANES) / len(NAMED_PLANES)


def _signed(value: float, places: int) -> str:
    return f"{value:+.{places}f}".replace("-", "−")


def _number_at(values: Sequence[float | None], i: int) -> str:
    value = values[i] if i < len(values) else None
    return "—" if value is None else f"{value:.4g}"


def _words(name: str) -> str:
    return name.replace("_", " ")
