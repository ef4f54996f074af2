"""Shows what the generation benchmark found: a table, curves and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e")
_KEYS = ("intensity", "coarse", "middle", "fine")


def table(report: dict[str, Any]) -> str:
    """Distances of samples from every head, and of heads from each other."""
    lines = [f"{'distance':44}" + "".join(f"{key:>11}" for key in _KEYS) + f"{'passes':>9}{'core s':>9}"]
    for pair in report["heads"]:
        lines.append(f"{' – '.join(pair['heads']):44}" + "".join(f"{pair[key]:>11.3f}" for key in _KEYS))
    for name, entry in report["samplers"].items():
        for head, of in entry["distances"].items():
            cost = f"{entry['n_evaluations']:>9.0f}{entry['cpu_seconds']:>9.0f}"
            lines.append(f"{name + ' – ' + head:44}" + "".join(f"{of[key]:>11.3f}" for key in _KEYS) + cost)
    return "\n".join(lines)


def plot(
    report: dict[str, Any], heads: dict[str, np.ndarray], samples: dict[str, list[np.ndarray]], path: Path
) -> None:
    """Histograms and spectra above; below, three planes of the first head and of a sample of every sampler.

    Parameters
    ----------
    report : dict
        As written.
    heads : mapping of str to float32 (d0, d1, d2)
    samples : mapping of str to list of float32 (d0, d1, d2)
    path : Path
    """
    from matplotlib import pyplot as plt

    shown = {next(iter(heads)): next(iter(heads.values())), **{name: volumes[0] for name, volumes in samples.items()}}
    figure = plt.figure(figsize=(11, 4.2 + 7.2), layout="constrained")
    curves, pictures = figure.subfigures(2, 1, height_ratios=(4.2, 7.2))
    left, right = curves.subplots(1, 2)
    edges = np.array(report["histogram"]["edges"])
    middles = (edges[1:] + edges[:-1]) / 2
    greys = iter(("#000000", "#777777", "#aaaaaa", "#cccccc"))
    colours = iter(_COLOURS)
    for name, share in report["histogram"]["share"].items():
        is_head = name in heads
        style: dict[str, Any] = {
            "color": next(greys, "#cccccc") if is_head else next(colours, "#8c564b"),
            "lw": 1.2 if is_head else 1.8,
            "ls": "--" if is_head else "-",
            "label": name,
        }
        left.semilogy(middles, np.maximum(share, 1e-6), **style)
        right.loglog(report["spectrum"]["cycles per voxel"], report["spectrum"]["power"][name], **style)
    left.set(xlabel="intensity, white is 1", ylabel="share of the voxels", ylim=(1e-5, 1), title="Intensities")
    right.set(xlabel="cycles a voxel", ylabel="power", title="Spatial spectrum, mean over directions")
    ticks = (0.02, 0.05, 0.1, 0.2, 0.5)
    right.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    right.set_xticks([], minor=True)
    for axis in (left, right):
        axis.grid(color="#eeeeee")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    right.legend(fontsize=8, title="dashed: heads; solid: generated", title_fontsize=8)
    pictures.set_facecolor("black")
    axes = pictures.subplots(3, len(shown), squeeze=False)
    for column, (name, volume) in enumerate(shown.items()):
        for row, (plane, axis) in enumerate((("axial", 2), ("coronal", 1), ("sagittal", 0))):
            # Radiological: right and front on the left, front or top up.
            image = np.take(volume, volume.shape[axis] // 2, axis=axis).T[::-1, ::-1]
            axes[row, column].imshow(image, cmap="gray", vmin=0, vmax=1)
            axes[row, column].set_axis_off()
            if column == 0:
                axes[row, 0].text(0.02, 0.95, plane, color="#9aa0a8", va="top", transform=axes[row, 0].transAxes)
        is_head = column == 0
        axes[0, column].set_title(f"{name}{' (head)' if is_head else ', seed 0'}", color="white", fontsize=10)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)
