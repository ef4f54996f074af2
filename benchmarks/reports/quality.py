"""Shows what the quality benchmark found: tables, claims, plots and pictures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.configurations import PROBLEMS, WITHOUT_NETWORK

#: One finished cell: the names of its volume, problem and configuration, its seed, and what the store keeps of it.
Record = dict[str, Any]
WORST, TISSUE, SECONDS = "worst_plane_psnr_db", "tissue_psnr_db", "seconds"
_FIGURES = (
    "psnr_db",
    WORST,
    "tissue_psnr_db",
    "ssim",
    "streaks",
    "data_residual",
    SECONDS,
    "cpu_seconds",
    "n_evaluations",
)
_AXES = {"axial": 2, "coronal": 1, "sagittal": 0}


def summaries(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One entry a volume, problem and configuration: mean and standard deviation over the seeds of every figure.

    The deviation is None for a single seed. A seed that failed is counted in ``n_failed``, and the figures of an entry
    of which any seed failed are None: a mean of the others would flatter it.
    """
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["volume"], record["problem"], record["configuration"]), []).append(record)
    found = []
    for (volume, problem, configuration), runs in groups.items():
        failures = [run["failure"] for run in runs if run["failure"] is not None]
        entry: dict[str, Any] = {
            **{"volume": volume, "problem": problem, "configuration": configuration},
            **{"title": runs[0]["title"], "group": runs[0]["group"], "n_seeds": len(runs)},
            **{"n_failed": len(failures), "failure": failures[0] if failures else None, "figures": None},
        }
        if not failures:
            entry["figures"] = {name: _spread([run["figures"][name] for run in runs]) for name in _FIGURES}
            entry["planes"] = {
                plane: statistics.mean(run["figures"]["planes"][plane]["psnr_db"] for run in runs) for plane in _AXES
            }
        found.append(entry)
    return found


def _spread(values: list[float]) -> dict[str, float | None]:
    return {"mean": statistics.mean(values), "deviation": statistics.stdev(values) if len(values) > 1 else None}


def claims(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the comparison is for, one entry a volume and problem; each None where a side is missing or failed.

    Every difference is one of the worst plane's PSNR, in dB, and positive where the claim holds: ``fast − pc``, the
    fast preset over the published sampler, with ``times as fast``, the ratio of their seconds; ``two − one plane`` of
    the fast preset, and of the published sampler; ``fast − best classical``, the best of those without a network.
    ``adaptive − best fixed λ`` compares short runs of the published sampler by the volume's PSNR.
    """
    found = []
    for volume, problem in _problems(entries):
        of = {e["configuration"]: e["figures"] for e in entries if (e["volume"], e["problem"]) == (volume, problem)}

        def mean(name: str, figure: str = WORST, of: Mapping[str, Any] = of) -> float | None:
            return of[name][figure]["mean"] if of.get(name) else None

        best = max((name for name in WITHOUT_NETWORK if of.get(name)), key=lambda n: mean(n) or -math.inf, default="")
        fast_s, pc_s = mean("fast", SECONDS), mean("pc", SECONDS)
        searched = [e for e in entries if (e["volume"], e["problem"], e["group"]) == (volume, problem, "search")]
        fixed = max((e["figures"]["psnr_db"]["mean"] for e in searched if e["figures"]), default=None)
        found.append(
            {
                "volume": volume,
                "problem": problem,
                "fast − pc": _difference(mean("fast"), mean("pc")),
                "times as fast": None if fast_s is None or pc_s is None else pc_s / fast_s,
                "two − one plane": _difference(mean("fast"), mean("fast-one")),
                "two − one plane, pc": _difference(mean("pc"), mean("pc-one")),
                "fast − best classical": _difference(mean("fast"), mean(best)),
                "best classical": best or None,
                "adaptive − best fixed λ": _difference(mean("pc-adaptive", "psnr_db"), fixed),
            }
        )
    return found


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _problems(entries: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((entry["volume"], entry["problem"]) for entry in entries))


def claims_text(found: Sequence[dict[str, Any]]) -> str:
    """The claims as text, with what speaks against them marked."""
    columns = ("fast − pc", "two − one plane", "two − one plane, pc", "fast − best classical")
    lines = [f"{'claims: worst plane, dB':32}" + "".join(f"{column:>24}" for column in columns) + f"{'speed':>10}"]
    for claim in found:
        cells = "".join(f"{_signed(claim[column]):>24}" for column in columns)
        speed = "–" if claim["times as fast"] is None else f"× {claim['times as fast']:.3g}"
        lines.append(f"{claim['volume'] + ', ' + claim['problem']:32}{cells}{speed:>10}")
    against = [f"{c['volume']}, {c['problem']}: {n}" for c in found for n in columns if c[n] is not None and c[n] <= 0]
    return "\n".join([*lines, f"does not hold: {'; '.join(against)}" if against else "nothing measured speaks against"])


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def tables(entries: Sequence[dict[str, Any]]) -> str:
    """One table a volume, problem and group of configurations, best volume PSNR first, failures last."""
    lines = []
    for volume, problem in _problems(entries):
        of_problem = [e for e in entries if (e["volume"], e["problem"]) == (volume, problem)]
        lines.append(f"\n{volume}, {PROBLEMS[problem].title}")
        columns = (
            "PSNR",
            "in tissue",
            "worst plane",
            "axi / cor / sag",
            "SSIM",
            "streaks",
            "residual",
            "passes",
            "seconds",
        )
        widths = (14, 14, 14, 20, 8, 10, 10, 8, 16)
        lines.append(f"{'':44}" + "".join(f"{c:>{w}}" for c, w in zip(columns, widths, strict=True)))
        for group in dict.fromkeys(entry["group"] for entry in of_problem):
            if group not in ("main", "steps"):
                lines.append(f"  {group}")
            for entry in sorted((e for e in of_problem if e["group"] == group), key=_rank):
                lines.append(_line(entry, widths))
    return "\n".join(lines)


def _rank(entry: dict[str, Any]) -> float:
    return math.inf if entry["figures"] is None else -float(entry["figures"]["psnr_db"]["mean"])


def _line(entry: dict[str, Any], widths: Sequence[int]) -> str:
    if entry["figures"] is None:
        return f"{entry['title']:44}  failed with {entry['n_failed']} of {entry['n_seeds']} seeds: {entry['failure']}"
    of = entry["figures"]
    cells = (
        number(of["psnr_db"], ".2f"),
        number(of[TISSUE], ".2f"),
        number(of[WORST], ".2f"),
        " / ".join(f"{entry['planes'][plane]:.1f}" for plane in _AXES),
        f"{of['ssim']['mean']:.3f}",
        f"{of['streaks']['mean']:.2f}",
        f"{of['data_residual']['mean']:.1e}",
        f"{of['n_evaluations']['mean']:.0f}",
        number(of[SECONDS], ".3g"),
    )
    return f"{entry['title']:44}" + "".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))


def number(figure: Mapping[str, float | None], form: str) -> str:
    """Mean, and ± standard deviation where there are several seeds."""
    mean, deviation = figure["mean"], figure["deviation"]
    return f"{mean:{form}}" + ("" if deviation is None else f" ± {deviation:.2g}")


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (seconds, dB) that no other one beats in both, fastest first."""
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def plot(entries: Sequence[dict[str, Any]], path: Path, caption: str) -> None:
    """Worst plane's PSNR against seconds, a panel for each volume and problem, with the Pareto front."""
    from matplotlib import pyplot as plt

    shown = [e for e in entries if e["figures"] and e["group"] in ("main", "steps")]
    panels = _problems(shown)
    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(5.2 * n_columns, 4.2 * n_rows + 0.5), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (volume, problem) in zip(axes.flat, panels, strict=False):
        of = [e for e in shown if (e["volume"], e["problem"]) == (volume, problem)]
        points = [(e["figures"][SECONDS]["mean"], e["figures"][WORST]["mean"]) for e in of]
        front = pareto(points)
        axis.plot(*zip(*(points[i] for i in front), strict=True), color="#1f6fb4", linewidth=1, zorder=1)
        for i, (entry, (seconds, db)) in enumerate(zip(of, points, strict=True)):
            color = "#1f6fb4" if i in front else "#9aa3ad"
            deviation = entry["figures"][WORST]["deviation"]
            axis.errorbar(seconds, db, yerr=deviation, fmt="o", markersize=5, color=color, capsize=2)
        axis.set_xscale("log")
        axis.margins(x=0.12, y=0.12)
        _label(axis, of, points)
        axis.set_title(f"{volume}, {PROBLEMS[problem].title}", loc="left", fontsize=10)
        axis.tick_params(labelsize=8)
        axis.grid(color="#eeeeee")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("seconds", fontsize=8)
        axis.set_ylabel("PSNR of the worst plane, dB", fontsize=8)
    figure.suptitle(f"{caption}; blue: not beaten in both", fontsize=10)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _label(axis: Any, entries: Sequence[dict[str, Any]], points: Sequence[tuple[float, float]]) -> None:
    """Name the points, on the side where there is room, one below the other where they meet."""
    from matplotlib.patheffects import withStroke

    figure = axis.figure
    figure.canvas.draw()
    pixels = axis.transData.transform(points)
    middle = axis.bbox.x0 + axis.bbox.width / 2
    taken: list[tuple[float, float, bool]] = []
    height = 11 * figure.dpi / 72
    for i in sorted(range(len(points)), key=lambda i: -pixels[i][1]):
        x, y = pixels[i]
        is_left = x > middle
        wanted = y
        while any(side == is_left and abs(x - other) < axis.bbox.width / 2 and abs(y - at) < height * 0.95
                  for other, at, side in taken):  # fmt: skip
            y -= 1
        taken.append((x, y, is_left))
        axis.annotate(
            entries[i]["title"].replace("published sampler", "published"),
            points[i],
            xytext=((-6 if is_left else 6), (y - wanted) * 72 / figure.dpi),
            textcoords="offset points",
            ha="right" if is_left else "left",
            va="center",
            fontsize=7,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )


def picture(truth: np.ndarray, volumes: Mapping[str, np.ndarray], path: Path, title: str) -> None:
    """Middle slices in three planes: the truth and the reconstructions, and below each of these its error.

    Parameters
    ----------
    truth : float32 (d0, d1, d2)
    volumes : mapping of str to float32 (d0, d1, d2)
        Title to reconstruction.
    path : Path
    title : str
    """
    from matplotlib import pyplot as plt

    tissue = truth > 0.05 * np.percentile(truth[truth > 0], 99.5)
    middles = [int(np.mean(np.flatnonzero(tissue.any(axis=tuple({0, 1, 2} - {axis})))[[0, -1]])) for axis in range(3)]
    shown = {"truth": truth, **volumes}
    # Neither the best nor one that failed sets the scale.
    top = float(np.median([np.percentile(abs(volume - truth), 99.5) for volume in volumes.values()]))
    figure, axes = plt.subplots(
        6, len(shown), figsize=(1.9 * len(shown), 11.6), facecolor="black", squeeze=False, layout="constrained"
    )
    for column, (name, volume) in enumerate(shown.items()):
        for i, (plane, axis) in enumerate(_AXES.items()):
            # Radiological: right and front on the left, front or top up.
            image, error = (np.take(v, middles[axis], axis=axis).T[::-1, ::-1] for v in (volume, abs(volume - truth)))
            axes[2 * i, column].imshow(image, cmap="gray", vmin=0, vmax=1)
            if name != "truth":
                axes[2 * i + 1, column].imshow(error, cmap="inferno", vmin=0, vmax=top)
            elif i == 0:
                note = f"error, to {100 * top:.0f} % of white"
                axes[1, 0].text(0.5, 0.5, note, color="white", ha="center", fontsize=8, transform=axes[1, 0].transAxes)
            if column == 0:
                axes[2 * i, 0].text(0.02, 0.95, plane, color="#9aa0a8", va="top", fontsize=8,
                                    transform=axes[2 * i, 0].transAxes)  # fmt: skip
        axes[0, column].set_title(name, color="white", fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.suptitle(title, color="white", fontsize=11)
    figure.savefig(path, dpi=100, facecolor="black", metadata={"Software": None})
    plt.close(figure)
