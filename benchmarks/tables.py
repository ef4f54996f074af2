"""Put the newest results into the tables of docs: ``python benchmarks/tables.py``."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import ROOT, coils, measured, stacks
from benchmarks.lib.command import RESULTS
from benchmarks.lib.configurations import PROBLEMS, WITHOUT_NETWORK
from benchmarks.lib.machine import title
from benchmarks.lib.table import markdown
from benchmarks.reports import scaling as scaling_report
from benchmarks.reports.latency import duration, milliseconds, reasons
from benchmarks.reports.quality import SECONDS, TISSUE, WORST, number

CLASSICAL = {"csmri": "zero_filled", "mrzsr": "cubic", "svct": "fbp"}


def newest(pattern: str) -> tuple[Path, dict[str, Any]]:
    """The last result file by date, which its name ends in."""
    path = max(RESULTS.glob(pattern), key=lambda p: p.stem[-10:])
    return path, json.loads(path.read_text())


def demo_table() -> str:
    path, report = newest("demo-*.json")
    rows = []
    for name, task in report["tasks"].items():
        metrics = task["metrics"]

        def cell(key: str, metrics: dict[str, Any] = metrics) -> str:
            if key not in metrics:
                return "–"
            return " / ".join(f"{metrics[key][p]['psnr_db']:.1f}" for p in ("axial", "coronal", "sagittal"))

        cost = f"{task['sampling_seconds']:.0f} s", f"{task['peak_memory_mb'] * 2**20 / 1e9:.2f} GB"
        rows.append((f"`{name}`", cell("reconstruction"), cell(CLASSICAL.get(name, "")), *cost))
    head = ("task", "PSNR in dB, axial / coronal / sagittal", "classical", "sampling", "peak memory")
    return f"{markdown(head, rows)}\n\n{title(report['machine'])}; {_source(path, report)}"


def latency_table() -> str:
    """For every network and machine the newest measurement: one row for each way to compute it."""
    lines = [
        "| | denoise, ms a slice | guided step, ms a slice | times as fast as eager float32 | peak memory | "
        "error of the gradient | volume, published plan |",
        "|---|---|---|---|---|---|---|",
    ]
    notes = []
    for path, report in _newest_latency():
        n, size = report["workload"]["n_slices"], report["workload"]["size"]
        machine = (
            report["machine"]["gpu"]["name"] if report["machine"]["gpu"] else f"{report['machine']['cores']} cores"
        )
        title = f"{report['n_parameters'] / 1e6:.2f} M, {n} × {size}², {machine}"
        lines.append(f"| **{title}** | | | | | | |")
        for name, row in report["rows"].items():
            if row["reason"] is None:
                lines.append(f"| {_latency_row(name, row, n)} |")
        missing = "; ".join(f"{names}: {reason}" for reason, names in reasons(report).items())
        notes.append(f"{title}: {_source(path, report)}" + (f" Not there: {missing}." if missing else ""))
    foot = (
        "Median (quartiles) with the batch size that is fastest for each row; peak memory of a process that does "
        "nothing else; errors against float64 autograd; volumes of the slices' side in 2000 steps, extrapolated from "
        "one step of each kind."
    )
    return "\n".join([*lines, "\n" + foot + "\n\n" + "\n".join(f"- {note}" for note in notes)])


def _newest_latency() -> list[tuple[Path, dict[str, Any]]]:
    """The last report of every network and machine, which the file's name gives before the date."""
    found = {path.stem[:-11]: path for path in sorted(RESULTS.glob("latency-*.json"), key=lambda p: p.stem[-10:])}
    return [(path, json.loads(path.read_text())) for _, path in sorted(found.items())]


def _latency_row(name: str, row: dict[str, Any], n: int) -> str:
    def number(value: float | None, form: str) -> str:
        return "–" if value is None else f"{value:{form}}"

    memory, ratio = row["memory"] or {}, row["ratio_to_eager"]
    peak = memory.get("peak_mb")
    cells = [
        name,
        milliseconds(row["seconds"]["denoise"], n),
        milliseconds(row["seconds"]["guided step"], n),
        f"{number(ratio['denoise'], '.2f')}, {number(ratio['guided step'], '.2f')}",
        "–" if peak is None else f"{peak * 2**20 / 1e9:.2f} GB",
        number((row["relative_error"] or {}).get("gradient"), ".0e"),
        duration(row["volume_seconds"]["published plan"]),
    ]
    return " | ".join(cells)


def operator_table() -> str:
    """Each operator's time, and how many times as long every peer takes."""
    path, report = newest("operators-*cores-*.json")
    lines = []
    for name, operator in report["operators"].items():
        rows = operator["rows"]
        others = [
            f"{peer} {row['ratio_to_ours']:.2g}"
            for peer, row in rows.items()
            if peer != "ours" and row["ratio_to_ours"]
        ]
        ours = rows["ours"]["seconds"]
        cell = f"{1e3 * ours['median']:.1f} ({1e3 * ours['quartile_1']:.1f} … {1e3 * ours['quartile_3']:.1f})"
        lines.append((name, cell, " · ".join(others) or "–"))
    size = f"{report['slices']} slices of {report['size']}², {report['views']} views, {report['threads']} threads"
    table = markdown(("operator", "ours, ms", "others, times as long"), lines)
    return f"{table}\n\n{size}: median (quartiles). {_source(path, report)}"


def step_table() -> str:
    """What a guided step spends outside the networks."""
    path, report = newest("step-*.json")
    rows = []
    for name, row in report["rows"].items():
        parts = {part: 1e3 * seconds["median"] for part, seconds in row["parts"].items()}
        small = parts["arithmetic"] + parts["noise"] + parts["re-ordering"]
        whole, share = 1e3 * row["seconds"]["median"], 100 * row["share_outside_network"]["median"]
        rows.append((name, f"{whole:.0f}", f"{parts['operator']:.0f} ms", f"{small:.1f} ms", f"{share:.1f} %"))
    head = ("task", "guided step, ms", "operator", "arithmetic, noise, re-ordering", "outside the networks")
    return f"{markdown(head, rows)}\n\nMedians; {_source(path, report)}"


def quality_table(name: str = "quality", rivals: tuple[str, ...] = ("pc", "fast-one", "dds")) -> str:
    """The fast preset beside what it has to beat, for every volume and problem of the last report of that name."""
    path, report = newest(f"{name}-*.json")
    titles = {entry["configuration"]: entry["title"].split(", λ")[0] for entry in report["summaries"]}
    columns = ["fast", *[rival for rival in rivals if rival in titles]]
    lines = [f"| | {' | '.join(titles[column] for column in columns)} | best without a network |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for claim in report["claims"]:
        found = _entries(report, claim["volume"], claim["problem"])
        best = claim["best classical"] or WITHOUT_NETWORK[0]
        cells = [_quality(found.get(column)) for column in (*columns, best)]
        if found.get(best):
            cells[-1] += f" ({found[best]['title']})"
        lines.append(f"| {PROBLEMS[claim['problem']].title} | {' | '.join(cells)} |")
    foot = f"PSNR of the worst of three planes, and time on {report['threads']} of"
    picture = f"![PSNR of the worst plane against seconds](../benchmarks/results/{path.stem}.png)"
    return "\n".join([*lines, f"\n{foot} {title(report['machine'])}; {_source(path, report)}\n\n{picture}"])


def _entries(report: dict[str, Any], volume: str, problem: str) -> dict[str, dict[str, Any]]:
    return {
        entry["configuration"]: entry
        for entry in report["summaries"]
        if (entry["volume"], entry["problem"]) == (volume, problem)
    }


def weights_table() -> str:
    """The adaptive λ beside fixed ones, in short runs of the published sampler."""
    path, report = newest("quality-*.json")
    fixed = sorted((e for e in _unique(report, "search")), key=lambda e: float(e["configuration"].rpartition("-x")[2]))
    columns = ["pc-adaptive", *[entry["configuration"] for entry in fixed]]
    heads = ["adaptive", *[f"fixed × {c.rpartition('-x')[2]}" for c in columns[1:]]]
    rows = []
    for claim in report["claims"]:
        found = _entries(report, claim["volume"], claim["problem"])
        rows.append((PROBLEMS[claim["problem"]].title, *(_psnr(found.get(column)) for column in columns)))
    n_steps = fixed[0]["title"].split(", ")[1]
    foot = f"PSNR of the volume, published sampler, {n_steps}, multiples of the published λ; {_source(path, report)}"
    return f"{markdown(('', *heads), rows)}\n\n{foot}"


def seeds_table() -> str:
    """How much a result depends on chance."""
    path, report = newest("seeds-*.json")
    rows = []
    for entry in report["summaries"]:
        psnr = [
            cell["figures"][WORST]
            for cell in report["cells"]
            if cell["figures"] and all(cell[key] == entry[key] for key in ("volume", "problem", "configuration"))
        ]
        spread = statistics.stdev(psnr)
        cells = f"{statistics.mean(psnr):.2f} dB", f"{spread:.3f} dB", f"{min(psnr):.2f} dB", f"{max(psnr):.2f} dB"
        title = f"{PROBLEMS[entry['problem']].title}, {entry['title']}, {entry['n_seeds']} seeds"
        rows.append((title, *cells, entry["n_failed"]))
    table = markdown(("", "mean", "standard deviation", "lowest", "highest", "failed"), rows)
    return f"{table}\n\nPSNR of the worst of three planes; {_source(path, report)}"


def people_table(pattern: str = "people-*.json") -> str:
    """People at 1 mm whom no prior was trained on: every method's PSNR in the tissue, and in the worst plane."""
    path, report = newest(pattern)
    titles = {e["configuration"]: e["title"] for e in report["summaries"] if e["group"] == "main"}
    rows = []
    for problem, volume in dict.fromkeys((e["problem"], e["volume"]) for e in report["summaries"]):
        of = {e["configuration"]: e for e in report["summaries"] if (e["problem"], e["volume"]) == (problem, volume)}
        cells = (f"{_psnr(of.get(name), TISSUE)} / {_psnr(of.get(name), WORST)}" for name in titles)
        rows.append((PROBLEMS[problem].title, volume, *cells))
    table = markdown(("", "person", *titles.values()), rows)
    return f"{table}\n\nPSNR in dB, of the tissue and of the worst of three planes; {_source(path, report)}"


def sweeps_table() -> str:
    """One setting of the fast preset changed, for every problem."""
    path, report = newest("sweeps-*.json")
    problems = list(dict.fromkeys(entry["problem"] for entry in report["summaries"]))
    rows = []
    swept = [e for group in dict.fromkeys(e["group"] for e in report["summaries"]) for e in _unique(report, group)]
    for one in swept:
        if one["configuration"] == "classical":
            continue
        of = {e["problem"]: e for e in report["summaries"] if e["configuration"] == one["configuration"]}
        title = one["title"].removeprefix("fast, ")
        rows.append((title, *(_psnr(of.get(name), WORST) for name in problems)))
    table = markdown(("", *(PROBLEMS[name].title for name in problems)), rows)
    return f"{table}\n\nPSNR of the worst of three planes in dB; {_source(path, report)}"


def _unique(report: dict[str, Any], group: str) -> list[dict[str, Any]]:
    """One entry a configuration of a group."""
    found = {entry["configuration"]: entry for entry in report["summaries"] if entry["group"] == group}
    return list(found.values())


def _psnr(entry: dict[str, Any] | None, figure: str = "psnr_db") -> str:
    if entry is None:
        return "–"
    return "failed" if entry["figures"] is None else number(entry["figures"][figure], ".1f")


def noise_table() -> str:
    """What reconstructions gain by knowing, or estimating, the noise of the measurement."""
    path, report = newest("noise-levels-*.json")
    rows = []
    for run in report["reconstructions"]:
        levels = [run["levels"][name] for name in ("known", "estimated", "none")]
        noise = f"{100 * run['noise']:.3g} %", f"{100 * levels[1]['level']:.2g} %"
        rows.append((run["problem"], *noise, *(f"{level[WORST]:.1f} dB" for level in levels)))
    table = markdown(("", "noise", "found", "its level known", "as found", "taken for none"), rows)
    return f"{table}\n\nPSNR of the worst of three planes; {_source(path, report)}"


def generation_table() -> str:
    """How far generated volumes are from the head that the priors were trained on, and how far other heads are."""
    path, report = newest("generation-*.json")
    lines = ["| | intensities | spectrum: coarse | middle | fine | network passes |", "|---|---|---|---|---|---|"]
    keys = ("intensity", "coarse", "middle", "fine")
    head = next(iter(next(iter(report["samplers"].values()))["distances"]))
    for name, entry in report["samplers"].items():
        cells = " | ".join(f"{entry['distances'][head][key]:.2f}" for key in keys)
        lines.append(f"| `{name}` | {cells} | {entry['n_evaluations']:.0f} |")
    for pair in report["heads"]:
        if head in pair["heads"]:
            (other,) = set(pair["heads"]) - {head}
            lines.append(f"| another head, `{other}` | {' | '.join(f'{pair[key]:.2f}' for key in keys)} | |")
    seeds = f"means of {report['seeds']} seeds" if report["seeds"] > 1 else "one seed"
    foot = (
        f"Distance from `{head}`, {seeds}: Wasserstein distance of intensities (white is 1), and mean difference of "
        f"log₁₀ power in three bands of spatial frequency; {_source(path, report)}"
    )
    picture = f"![Histograms, spectra and planes of generated volumes](../benchmarks/results/{path.stem}.png)"
    return "\n".join([*lines, f"\n{foot}\n\n{picture}"])


def measured_table(task: str) -> str:
    """What reading a measurement from a file costs, and what it costs to estimate what the file does not say."""
    path, report = newest("measured-*.json")
    rows = {title: row for title, row in report["rows"].items() if row["task"] == task}
    foot = f"PSNR of the worst of three planes, noise of {100 * report['noise']:g} % in the measurement; "
    return f"{measured.table(rows)}\n\n{foot}{_source(path, report)}"


def stacks_table() -> str:
    """One, two and three stacks of thick slices, unmoved and moved."""
    path, report = newest("stacks-people-*.json")
    return f"{stacks.table(report['rows'])}\n\nPSNR of the tissue in dB; {_source(path, report)}"


def coils_table() -> str:
    """Several coils, and an image with a sharp phase, beside BART."""
    path, report = newest("coils-people-*.json")
    return f"{coils.table(report['rows'])}\n\nPSNR of the tissue in dB; {_source(path, report)}"


def scaling_tables() -> dict[str, Callable[[], str]]:
    """One volume on several ranks: gains, the model's rates, and what it says of clusters."""

    def of(make: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
        def made() -> str:
            path, report = newest("scaling-*.json")
            return f"{make(report)}\n\n{_source(path, report)}"

        return made

    return {
        "ranks table": of(scaling_report.table),
        "rates table": of(scaling_report.rates),
        "clusters table": of(scaling_report.clusters),
    }


def _quality(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "–"
    if entry["figures"] is None:
        return "failed"
    return f"{number(entry['figures'][WORST], '.1f')} dB, {duration(entry['figures'][SECONDS]['mean'])}"


def _source(path: Path, report: dict[str, Any]) -> str:
    return f"`{report['command'].strip()}`, {report['date']}, [figures](../benchmarks/results/{path.name})."


def fill(text: str, name: str, table: str) -> str:
    """Replace what stands between the two markers of a table."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, rest = text.split(start)
    after = rest.split(end)[1] if end in rest else rest
    return f"{before}{start}\n{table}\n{end}{after}"


#: Files with tables, and what fills each table.
FILES: dict[str, dict[str, Callable[[], str]]] = {
    "docs/benchmarks.md": {
        "demo table": demo_table,
        "quality table": quality_table,
        "latency table": latency_table,
        "step table": step_table,
        "operator table": operator_table,
    },
    "docs/quality.md": {
        "people table": people_table,
        "k-space people table": partial(people_table, "kspace-people-*.json"),
        "thickness table": partial(people_table, "thickness-*.json"),
        "second head table": lambda: quality_table("second-head"),
        "seeds table": seeds_table,
        "sweeps table": sweeps_table,
        "weights table": weights_table,
        "noise table": noise_table,
        "generation table": generation_table,
    },
    "docs/svct.md": {"measured table": partial(measured_table, "svct")},
    "docs/csmri.md": {"measured table": partial(measured_table, "csmri"), "coils table": coils_table},
    "docs/mrzsr.md": {"measured table": partial(measured_table, "mrzsr"), "stacks table": stacks_table},
    "docs/scaling.md": scaling_tables(),
}


def main() -> int:
    for name, tables in FILES.items():
        path = ROOT / name
        text = path.read_text()
        for table, make in tables.items():
            text = fill(text, table, make())
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
