"""A cone beam from few views: ``python benchmarks/cone.py``.

A volume is measured by the simulated scanner of the command line and reconstructed by its methods, options left at
their defaults but for the number of views and the noise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks.lib.command import parser_of, report_of, write
from benchmarks.lib.table import markdown
from engine import demo, run
from engine.errors import InputError
from engine.io.volumes import Volume, load_volume
from engine.report.metrics import tissue_psnr

#: By title: options of a run.
METHODS = {
    "default": (),
    "total variation": ("--method", "tv"),
    "Feldkamp, Davis and Kress": ("--method", "classical"),
}


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("cone", "A cone beam from few views.")
    parser.add_argument("--volume", type=Path, help="volume to measure (default: the demonstration's head)")
    parser.add_argument("--views", type=int, nargs="+", default=[15, 30, 60], help="over a whole turn")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.01], help="as parts of the samples' size")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="by their titles")
    args = parser.parse_args(argv)
    truth = demo.volume() if args.volume is None else load_volume(args.volume)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for noise in args.noise:
            for views in args.views:
                found = {title: _of_run(title, views, noise, args, truth, Path(folder)) for title in args.methods}
                rows.append({"views": views, "noise": noise, "methods": found})
    print(table(rows))
    write(report_of("cone", argv, rows=rows), args.results, "cone")
    return 0


def _of_run(
    title: str, views: int, noise: float, args: argparse.Namespace, truth: Volume, folder: Path
) -> dict[str, float]:
    """PSNR of the tissue in dB, and seconds of the whole command."""
    words = ["--task", "svct", "--beam", "cone", "--views", str(views), "--noise", str(noise), *METHODS[title]]
    words += [] if args.volume is None else ["--volume", str(args.volume)]
    started = time.perf_counter()
    if run.main([*words, "--quiet", "--no-report", "--overwrite", "--out", str(folder / "out")]):
        raise InputError("volume", "one that can be measured and reconstructed", f"'{truth.source}'", "see above")
    seconds = time.perf_counter() - started
    volume = np.asarray(nib.load(folder / "out" / "recon.nii.gz").dataobj, np.float32)
    # The run writes in the axes of the volume's file.
    if truth.orientation is not None:
        volume = truth.orientation.volume_of(volume)
    volume = (volume - np.float32(truth.offset)) / np.float32(truth.scale)
    return {"psnr_db": tissue_psnr(truth.data, volume), "seconds": round(seconds, 1)}


def table(rows: list[dict[str, Any]]) -> str:
    """PSNR: a row a method, a column a number of views with a level of noise."""
    heads = [f"{row['views']} views" + (f", noise {row['noise']:.0%}" if row["noise"] else "") for row in rows]
    cells = [(title, *(f"{row['methods'][title]['psnr_db']:.2f} dB" for row in rows)) for title in rows[0]["methods"]]
    return markdown(("", *heads), cells)


if __name__ == "__main__":
    sys.exit(main())
