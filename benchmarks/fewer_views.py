"""A real scan from fewer of its views: ``python benchmarks/fewer_views.py scan.h5``.

The scan is reconstructed from every Nth view by the methods of the command line, options left at their defaults, and by
SIRT, with and without its values kept positive. What they are compared with is the filtered back-projection of all
views: there is no truth. Every method has the same centre of rotation, found with all views. The peak of PSNR is the
largest value of that back-projection.
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
from engine import run
from engine.errors import InputError
from engine.io.measurements.sinogram import load_sinogram
from engine.io.measurements.sinogram_options import Reading
from engine.operators import Radon

#: By title: options of a run.
METHODS = {
    "default": (),
    "total variation": ("--method", "tv"),
    "filtered back-projection": ("--method", "classical"),
}
#: Sums of weights below which a ray or a pixel counts as not seen.
_UNSEEN = 1e-3


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("fewer_views", "A real scan from fewer of its views.")
    parser.add_argument("sinogram", type=Path, help="file in the exchange layout")
    parser.add_argument("--view-steps", type=_numbers, default=(5, 10), help="every Nth view, such as 5,10")
    parser.add_argument("--iterations", type=int, default=300, help="of SIRT")
    args = parser.parse_args(argv)
    full = load_sinogram(args.sinogram)
    reference = Radon(full.geometry, full.slice_shape).classical(full.data)
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        for step in args.view_steps:
            rows[str(len(full.geometry.angles_rad[::step]))] = {
                **{
                    title: _of_run(args.sinogram, step, words, reference, Path(name))
                    for title, words in METHODS.items()
                },
                **_of_sirt(args.sinogram, step, args.iterations, reference),
            }
    print(table(rows))
    words = [
        args.sinogram.name,
        *(word for word in (sys.argv[1:] if argv is None else argv) if word != str(args.sinogram)),
    ]
    peak = float(reference.max())
    write(report_of("fewer_views", words, details=full.details, peak=peak, rows=rows), args.results, "fewer-views")
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers, got '{text}'") from None


def _of_run(path: Path, step: int, words: tuple[str, ...], reference: np.ndarray, folder: Path) -> dict[str, float]:
    started = time.perf_counter()
    common = ["--task", "svct", "--sinogram", str(path), "--view-step", str(step), "--quiet", "--no-report"]
    if run.main([*common, *words, "--out", str(folder / "out"), "--overwrite"]):
        raise InputError("sinogram", "a scan that can be reconstructed", f"'{path}'", "see above")
    seconds = time.perf_counter() - started
    volume = np.asarray(nib.load(folder / "out" / "recon.nii.gz").dataobj, np.float32)
    return {"psnr_db": psnr(reference, volume.transpose(2, 0, 1)), "seconds": round(seconds, 1)}


def _of_sirt(path: Path, step: int, n_iterations: int, reference: np.ndarray) -> dict[str, dict[str, float]]:
    scan = load_sinogram(path, how=Reading(view_step=step))
    operator = Radon(scan.geometry, scan.slice_shape)
    found = {}
    for title, low in (("SIRT", -np.inf), ("SIRT, not negative", 0.0)):
        started = time.perf_counter()
        image = sirt(operator, scan.data, n_iterations, low)
        seconds = time.perf_counter() - started
        found[title] = {"psnr_db": psnr(reference, image), "seconds": round(seconds, 1)}
    return found


def sirt(operator: Radon, y: np.ndarray, n_iterations: int, low: float = -np.inf) -> np.ndarray:
    """x ← max(x + C Aᵀ R (y − A x), low) from zero on, C and R the inverse sums of A's columns and rows.

    Source: Gilbert, Iterative methods for the three-dimensional reconstruction of an object from projections, 1972.
    """

    def inverse(sums: np.ndarray) -> np.ndarray:
        return np.where(sums > _UNSEEN, 1 / np.maximum(sums, _UNSEEN), 0).astype(np.float32)

    rows = inverse(operator.apply(np.ones((1, *operator.slice_shape), np.float32)))
    columns = inverse(operator.adjoint(np.ones((1, *operator.data_shape), np.float32)))
    x = np.zeros((len(y), *operator.slice_shape), np.float32)
    for _ in range(n_iterations):
        x = np.maximum(x + columns * operator.adjoint(rows * (y - operator.apply(x))), np.float32(low))
    return x


def psnr(reference: np.ndarray, image: np.ndarray) -> float:
    """In dB, the peak being the largest value of the reference."""
    return float(10 * np.log10(float(reference.max()) ** 2 / np.mean((image - reference) ** 2, dtype=np.float64)))


def table(rows: dict[str, Any]) -> str:
    """PSNR: a row a method, a column a number of views."""
    titles = list(next(iter(rows.values())))
    cells = [(title, *(f"{row[title]['psnr_db']:.2f} dB" for row in rows.values())) for title in titles]
    return markdown(("", *(f"{n} views" for n in rows)), cells)


if __name__ == "__main__":
    sys.exit(main())
