"""Put the newest results into the README's tables: ``python benchmarks/readme.py``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# The script is run by its path: the package that it belongs to lies one folder up.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.configurations import PROBLEMS, WITHOUT_NETWORK
from benchmarks.latency_report import duration, milliseconds, reasons
from benchmarks.quality_report import SECONDS, WORST, number

HERE = Path(__file__).resolve().parent
CLASSICAL = {"csmri": "zero_filled", "mrzsr": "repeated", "svct": "fbp"}


def newest(pattern: str) -> tuple[Path, dict[str, Any]]:
    """The last result file by date, which its name ends in."""
    path = max(HERE.glob(f"results/{pattern}"), key=lambda p: p.stem[-10:])
    return path, json.loads(path.read_text())


def demo_table() -> str:
    path, report = newest("demo-*.json")
    lines = [
        "| task | PSNR in dB, axial / coronal / sagittal | classical | sampling | peak memory |",
        "|---|---|---|---|---|",
    ]
    for name, task in report["tasks"].items():
        metrics = task["metrics"]

        def cell(key: str, metrics: dict[str, Any] = metrics) -> str:
            if key not in metrics:
                return "–"
            return " / ".join(f"{metrics[key][p]['psnr_db']:.1f}" for p in ("axial", "coronal", "sagittal"))

        cost = f"{task['sampling_seconds']:.0f} s | {task['peak_memory_mb'] * 2**20 / 1e9:.2f} GB"
        lines.append(f"| `{name}` | {cell('reconstruction')} | {cell(CLASSICAL.get(name, ''))} | {cost} |")
    lines.append(f"\n{report['machine']['cores']} cores ({report['machine']['processor']}); {_source(path, report)}")
    return "\n".join(lines)


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
    found = {path.stem[:-11]: path for path in sorted(HERE.glob("results/latency-*.json"), key=lambda p: p.stem[-10:])}
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
    lines = ["| operator | ours, ms | others, times as long |", "|---|---|---|"]
    for name, operator in report["operators"].items():
        rows = operator["rows"]
        others = [
            f"{peer} {row['ratio_to_ours']:.2g}"
            for peer, row in rows.items()
            if peer != "ours" and row["ratio_to_ours"]
        ]
        ours = rows["ours"]["seconds"]
        cell = f"{1e3 * ours['median']:.1f} ({1e3 * ours['quartile_1']:.1f} … {1e3 * ours['quartile_3']:.1f})"
        lines.append(f"| {name} | {cell} | {' · '.join(others) or '–'} |")
    size = f"{report['slices']} slices of {report['size']}², {report['views']} views, {report['threads']} threads"
    return "\n".join([*lines, f"\n{size}: median (quartiles). {_source(path, report)}"])


def step_table() -> str:
    """What a guided step spends outside the networks."""
    path, report = newest("step-*.json")
    lines = ["| task | guided step, ms | operator | arithmetic, noise, re-ordering | outside the networks |"]
    lines.append("|---|---|---|---|---|")
    for name, row in report["rows"].items():
        parts = {part: 1e3 * seconds["median"] for part, seconds in row["parts"].items()}
        small = parts["arithmetic"] + parts["noise"] + parts["re-ordering"]
        whole, share = 1e3 * row["seconds"]["median"], 100 * row["share_outside_network"]["median"]
        lines.append(f"| {name} | {whole:.0f} | {parts['operator']:.0f} ms | {small:.1f} ms | {share:.1f} % |")
    return "\n".join([*lines, f"\nMedians; {_source(path, report)}"])


def quality_table() -> str:
    """The fast preset beside what it has to beat, for every volume and problem."""
    path, report = newest("quality-*.json")
    lines = ["| | fast | published sampler | fast, one plane | best without a network |", "|---|---|---|---|---|"]
    for claim in report["claims"]:
        found = {
            entry["configuration"]: entry
            for entry in report["summaries"]
            if (entry["volume"], entry["problem"]) == (claim["volume"], claim["problem"])
        }
        best = claim["best classical"] or WITHOUT_NETWORK[0]
        cells = [_quality(found.get(name)) for name in ("fast", "pc", "fast-one", best)]
        if found.get(best):
            cells[-1] += f" ({found[best]['title']})"
        lines.append(f"| {PROBLEMS[claim['problem']].title}, {claim['volume']} | {' | '.join(cells)} |")
    picture = f"![PSNR of the worst plane against seconds](benchmarks/results/{path.stem}.png)"
    seeds = max(entry["n_seeds"] for entry in report["summaries"])
    spread = f" ± standard deviation of {seeds} seeds" if seeds > 1 else ""
    foot = f"PSNR of the worst of three planes{spread}, and time on {report['threads']} of"
    machine = f"{report['machine']['cores']} cores ({report['machine']['processor']})"
    return "\n".join([*lines, f"\n{foot} {machine}; {_source(path, report)}\n\n{picture}"])


def noise_table() -> str:
    """What reconstructions gain by knowing, or estimating, the noise of the measurement."""
    path, report = newest("noise-levels-*.json")
    lines = ["| | noise | found | its level known | as found | taken for none |", "|---|---|---|---|---|---|"]
    for run in report["reconstructions"]:
        levels = [run["levels"][name] for name in ("known", "estimated", "none")]
        cells = " | ".join(f"{level[WORST]:.1f} dB" for level in levels)
        found = f"{100 * run['noise']:.3g} % | {100 * levels[1]['level']:.2g} %"
        lines.append(f"| {run['problem']} | {found} | {cells} |")
    return "\n".join([*lines, f"\nPSNR of the worst of three planes; {_source(path, report)}"])


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
    picture = f"![Histograms, spectra and planes of generated volumes](benchmarks/results/{path.stem}.png)"
    return "\n".join([*lines, f"\n{foot}\n\n{picture}"])


def _quality(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "–"
    if entry["figures"] is None:
        return "failed"
    return f"{number(entry['figures'][WORST], '.1f')} dB, {duration(entry['figures'][SECONDS]['mean'])}"


def _source(path: Path, report: dict[str, Any]) -> str:
    return f"`{report['command'].strip()}`, {report['date']}, [figures](benchmarks/results/{path.name})."


def fill(text: str, name: str, table: str) -> str:
    """Replace what stands between the two markers of a table."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, rest = text.split(start)
    after = rest.split(end)[1] if end in rest else rest
    return f"{before}{start}\n{table}\n{end}{after}"


def main() -> int:
    readme = HERE.parent / "README.md"
    text = readme.read_text()
    text = fill(text, "demo table", demo_table())
    text = fill(text, "latency table", latency_table())
    text = fill(text, "operator table", operator_table())
    text = fill(text, "quality table", quality_table())
    text = fill(text, "noise table", noise_table())
    readme.write_text(fill(text, "step table", step_table()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
