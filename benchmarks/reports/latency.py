"""Shows a report of the latency benchmark: as a table, and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.lib import machine
from benchmarks.lib.network_rows import BASELINE, EAGER, ENGINE
from benchmarks.lib.workload import DENOISE, GUIDED, MEASURES

#: Plans that a volume's time is extrapolated to: number of steps, every second one guided.
PLANS = {"published plan": 2000, "demonstration": 60}


def table(report: dict[str, Any]) -> str:
    """The report as text: milliseconds a slice, what follows from them, and reasons."""
    n = report["workload"]["n_slices"]
    size = report["workload"]["size"]
    lines = [
        f"{report['n_parameters'] / 1e6:.2f} million parameters, {n} slices of {size}², "
        f"{machine.title(report['machine'])}, {report['workload']['threads']} threads",
        f"{'milliseconds a slice':34}{'batch':>6}" + "".join(f"{name:>28}" for name in MEASURES),
    ]
    for name, entry in report["rows"].items():
        if any(entry["seconds"].values()):
            cells = "".join(f"{milliseconds(entry['seconds'][m], n):>28}" for m in MEASURES)
            lines.append(f"{name:34}{entry['batch_size']:6}{cells}")
    columns = ("denoise", "guided", "/fastest", "peak MB", "eager/", "err. x0", "err. grad.", "published", "demo")
    lines.append(f"\n{'times as fast as eager float32':34}" + "".join(f"{column:>12}" for column in columns))
    for name, entry in report["rows"].items():
        if any(entry["seconds"].values()):
            memory, error = entry["memory"] or {}, entry["relative_error"] or {}
            volume = entry["volume_seconds"]
            cells = (
                _number(entry["ratio_to_eager"][DENOISE], ".2f"),
                _number(entry["ratio_to_eager"][GUIDED], ".2f"),
                _number(entry["ratio_to_fastest_eager"][GUIDED], ".2f"),
                _number(memory.get("peak_mb"), ".0f"),
                _number(entry["memory_ratio_to_eager"]["peak_mb"], ".2f"),
                _number(error.get("x0"), ".1e"),
                _number(error.get("gradient"), ".1e"),
                duration(volume["published plan"]),
                duration(volume["demonstration"]),
            )
            lines.append(f"{name:34}" + "".join(f"{cell:>12}" for cell in cells))
    lines.append(
        "/fastest: guided step beside the fastest variant of eager PyTorch. eager/: memory of eager float32 over the "
        f"row's.\npublished, demo: a {size}³ volume in {PLANS['published plan']} and {PLANS['demonstration']} steps, "
        "extrapolated from one step of each kind"
    )
    shares = {
        name: entry["fraction_of_matrix_rate"][GUIDED]
        for name, entry in report["rows"].items()
        if entry["fraction_of_matrix_rate"][GUIDED]
    }
    if shares:
        dtype = "bfloat16" if report["workload"]["device"] == "cuda" else "float32"
        rate = report["matrix_rate"][dtype]
        each = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
        reached = f"{rate / 1e12:.2f} TFLOP/s that a large {dtype} product reaches here"
        lines.append(f"guided step, of the {reached}: {each}")
    least = (report["rows"].get(BASELINE) or {}).get("memory_smallest_batch")
    if least and "peak_mb" in least:
        lines.append(f"peak memory of {BASELINE} with batches of {least['batch_size']}: {least['peak_mb']:.0f} MB")
    built = report["build"]
    where = "as shipped, elsewhere" if built["is_shipped"] else "here"
    lines.append(f"bundle: {built['bytes'] / 1e6:.1f} MB, built {where} in {built['seconds']:.0f} s")
    for name, entry in report["rows"].items():
        if entry["compile_seconds"]:
            size_mb = f", {entry['compiled_bytes'] / 1e6:.1f} MB" if entry["compiled_bytes"] else ""
            lines.append(f"{name}: compiled in {entry['compile_seconds']:.0f} s{size_mb}")
    return "\n".join([*lines, *(f"{names}: not here: {reason}" for reason, names in reasons(report).items())])


def reasons(report: dict[str, Any]) -> dict[str, str]:
    """Why rows could not run: reason to their names."""
    found: dict[str, list[str]] = {}
    for name, entry in report["rows"].items():
        if entry["reason"] is not None:
            found.setdefault(entry["reason"], []).append(name)
    return {reason: ", ".join(names) for reason, names in found.items()}


def milliseconds(seconds: dict[str, float] | None, n_slices: int) -> str:
    """Median and quartiles of one slice's share."""
    if seconds is None:
        return "–"
    low, median, high = (1e3 * seconds[k] / n_slices for k in ("quartile_1", "median", "quartile_3"))
    digits = 1 if median >= 1 else 3
    return f"{median:.{digits}f} ({low:.{digits}f} … {high:.{digits}f})"


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds is None:
        return "–"
    for unit, name in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.1f} s"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def plot(report: dict[str, Any], path: Path) -> None:
    """Bars of milliseconds a slice, a panel for each measure, with quartiles; below eager PyTorch, ours."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    n = report["workload"]["n_slices"]
    shown = {name: e for name, e in report["rows"].items() if any(e["seconds"].values())}
    colors = {EAGER: "#9aa3ad", ENGINE: "#1f6fb4"}
    figure, axes = plt.subplots(2, 2, figsize=(11, 1.6 + 0.75 * len(shown)), sharey=True, layout="constrained")
    for axis, name in zip(axes.flat, MEASURES, strict=True):
        widest = 0.0
        for i, entry in enumerate(shown.values()):
            seconds = entry["seconds"][name]
            if seconds is None:
                continue
            low, median, high = (1e3 * seconds[k] / n for k in ("quartile_1", "median", "quartile_3"))
            widest = max(widest, high)
            color = colors[entry["side"]]
            axis.barh(i, median, color=color, height=0.7)
            axis.errorbar(median, i, xerr=[[median - low], [high - median]], color="#333333", capsize=2, linewidth=1)
            ratio = entry["ratio_to_eager"][name]
            label = f"{median:.3g}" + ("" if ratio is None else f"  (×{ratio:.2f})")
            axis.annotate(label, (high, i), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8)
        axis.set_title(name, loc="left", fontsize=10)
        axis.set_xlim(0, 1.35 * widest if widest else 1)
        axis.set_yticks(range(len(shown)), list(shown), fontsize=8)
        axis.tick_params(axis="x", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1]:
        axis.set_xlabel("milliseconds a slice: median, quartiles (× as fast as eager float32)", fontsize=8)
    axes[0, 0].invert_yaxis()
    figure.suptitle(
        f"{report['n_parameters'] / 1e6:.2f} million parameters, {report['workload']['size']}², "
        f"{machine.title(report['machine'])}, {report['date']}",
        fontsize=10,
    )
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)
