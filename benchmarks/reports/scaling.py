"""Tables of what `benchmarks/scaling.py` found."""

from __future__ import annotations

from typing import Any

from benchmarks.lib.table import markdown


def table(report: dict[str, Any]) -> str:
    """A row a volume: what several ranks gain, and what the model says."""
    several = max(row["n_ranks"] for row in report["rows"])
    head = "volume", "a step on one rank", f"on {several}", "gain", "exchanges and sums", f"model, 1 / {several}"
    rows = []
    for alone, together in zip(report["rows"][::2], report["rows"][1::2], strict=True):
        errors = " / ".join(f"{100 * row['error']:+.0f} %" for row in (alone, together))
        rows.append(
            (
                f"{alone['task']} {'×'.join(map(str, alone['shape']))}",
                f"{1e3 * alone['step_s']['median']:.0f} ms",
                f"{1e3 * together['step_s']['median']:.0f} ms",
                f"{together['speedup']:.2f}",
                f"{100 * together['talk_part']:.1f} %",
                f"{errors}{' (fitted)' if alone['is_fitted'] else ''}",
            )
        )
    return markdown(head, rows)


def rates(report: dict[str, Any]) -> str:
    """The fitted rates of the model, in units that fit them."""
    model = report["model"]
    consistency = ", ".join(f"{task} {1e9 * s:.1f} ns" for task, s in model["consistency_s"].items())
    rows = [
        ("a, a network's pass, each pixel", f"{1e9 * model['network_s']:.0f} ns"),
        ("c, the proximal step, each pixel", f"{consistency}"),
        ("u, update and noise, each pixel", f"{1e9 * model['rest_s']:.1f} ns"),
        ("κ, for each further core", f"{100 * model['crowding']:.1f} %"),
        ("ℓ, an exchange, each partner", f"{1e6 * model['exchange_s']:.0f} µs"),
        ("β, an exchange, each byte of the slab, copies included", f"{1e9 * model['exchange_byte_s']:.2f} ns"),
        ("γ, a sum over all ranks", f"{1e6 * model['reduction_s']:.0f} µs"),
    ]
    return markdown(("rate", ""), rows)


def clusters(report: dict[str, Any]) -> str:
    """What the model says of GPUs with assumed rates: one volume, and a study."""
    found = report["clusters"]
    head = "GPUs", "`fast`", "`reference`", "gain", "exchanges and sums", "1000 volumes, a GPU each", "all GPUs each"
    rows = []
    for n, volume in found["volumes"].items():
        step, study = volume["step"], found["study"][n]
        talk = (step["exchange"] + step["reduction"]) / step["step"]
        rows.append(
            (
                n,
                f"{volume['fast_s']:.1f} s",
                f"{volume['reference_s'] / 60:.1f} min",
                f"{volume['speedup']:.1f}",
                f"{100 * talk:.1f} %",
                f"{study['one_gpu_each_h']:.2f} h",
                f"{study['all_gpus_each_h']:.2f} h",
            )
        )
    assumed = found["assumed"]
    foot = (
        f"Assumed: {assumed['flops_per_slice'] / 1e12:.2f} TFLOP for a slice (counted at 128², carried over by "
        f"pixels), {assumed['flops_s'] / 1e12:.0f} TFLOP/s reached, three tenths of the H200's published bf16 rate; "
        f"{assumed['inside_byte_s'] / 1e9:.0f} GB/s to GPUs of the same node of {assumed['node']}, "
        f"{assumed['between_byte_s'] / 1e9:.0f} GB/s to others, {1e6 * assumed['message_s']:.0f} µs a message. "
        "Everything but the networks and the exchanges is left out."
    )
    return f"{markdown(head, rows)}\n\n{foot}"
