"""K-space of several coils and an image with a sharp phase, beside BART: ``python benchmarks/coils.py``.

A head's slices are given a phase that varies slowly, and sharply with the anatomy; coils and noise are simulated, and
written to a file of which nothing else is known: sensitivities, noise and phase are found by every method itself. BART
has the best of four weights, by the truth. Rows are written as they are done, and not done again by the same command.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

import kernels
from benchmarks.lib.cells import Truth
from benchmarks.lib.command import parser_of, report_of, rows_of_today, write
from benchmarks.lib.table import markdown
from benchmarks.peers import bart
from engine import demo, run
from engine.cli import exit_code
from engine.errors import InputError
from engine.io.measurements.fastmri import save_fastmri
from engine.io.measurements.kspace import KSpace
from engine.methods import METHODS
from engine.operators import CoilFourier
from engine.problems.coil_maps import simulated
from engine.problems.masks import poisson_disc
from engine.report.metrics import tissue_psnr
from engine.sampling.problem import InverseProblem
from engine.volume import NAMED_PLANES, Plane

_PLANE = Plane(NAMED_PLANES["axial"])
#: Of the phase, in radians: from one side of the head to the other, beside edges, and of folds a few voxels wide.
_TURN_RAD, _EDGES_RAD, _FOLDS_RAD = 3.0, 2.0, 0.4


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("coils", __doc__.split(":")[0])
    parser.add_argument("--volumes", nargs="+", default=["demo"], metavar="FILE", help="NIfTI; demo: the demonstration")
    parser.add_argument("--voxel-mm", type=float, default=demo.VOXEL_MM, metavar="MM", help="of the truth")
    parser.add_argument("--axial-slices", type=int, default=24, metavar="N", help="in the middle of each volume")
    parser.add_argument("--accelerations", type=float, nargs="+", default=[4.0, 8.0])
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--noise", type=float, default=0.02, help="part of the samples' root mean square")
    parser.add_argument(
        "--methods", nargs="+", default=["tpdm", "classical"], help=f"of {', '.join([*METHODS, *bart.PEERS])}"
    )
    parser.add_argument("--name", default="coils", help="what the name of the written file begins with")
    args = parser.parse_args(argv)

    def body() -> int:
        for method in args.methods:
            if method not in {**METHODS, **bart.PEERS}:
                known = ", ".join([*METHODS, *bart.PEERS])
                raise InputError("methods", f"some of {known}", f"'{method}'", "choose from these")
        rows = rows_of_today(args.results, args.name)
        for file in args.volumes:
            truth = Truth.read(file, None if file == "demo" else args.voxel_mm, args.axial_slices)
            for acceleration in args.accelerations:
                for method in args.methods:
                    key = {"volume": truth.name, "acceleration": acceleration, "method": method}
                    if any(all(row[name] == value for name, value in key.items()) for row in rows):
                        continue
                    scan = scan_of(truth.data, acceleration, args.coils, args.noise)
                    started = time.monotonic()
                    volume, details = (by_bart if method in bart.PEERS else by_run)(scan, method, truth.data)
                    row = {"tissue_psnr_db": tissue_psnr(truth.data, volume), "seconds": time.monotonic() - started}
                    rows.append({**key, **row, **details})
                    print(json.dumps(rows[-1]), flush=True)
                    write(report_of("coils", argv, rows=rows), args.results, args.name)
        print(table(rows))
        return 0

    return exit_code("coils", body, interrupted="the same command goes on where this one stopped")


def scan_of(truth: np.ndarray, acceleration: float, n_coils: int, noise: float) -> KSpace:
    """Samples of a head with a phase, by coils with noise."""
    slices = _PLANE.slices_of(truth)
    n, h, w = slices.shape
    x, y = np.linspace(-0.5, 0.5, h)[:, None], np.linspace(-0.5, 0.5, w)
    edges = slices - ndimage.gaussian_filter(slices, (0, 4, 4))
    folds = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal(slices.shape), 2)
    phase = _TURN_RAD * (x + 2 * x * y) + _EDGES_RAD * edges + _FOLDS_RAD * folds / folds.std()
    operator = CoilFourier(poisson_disc((h, w), acceleration, 0), simulated(n_coils, (n, h, w)), np.complex64)
    samples = operator.apply((slices * np.exp(1j * phase)).astype(np.complex64))
    level = noise * np.sqrt(np.mean(np.abs(samples[samples != 0]) ** 2))
    z = np.random.default_rng(0).standard_normal((2, *samples.shape), np.float32)
    samples = ((samples + level * (z[0] + 1j * z[1])) * operator.mask).astype(np.complex64)
    return KSpace(samples, operator.mask, _PLANE, np.eye(4), ((0, h), (0, w)), "scan")


def by_run(scan: KSpace, method: str, truth: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """What `engine.run` makes of the file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_fastmri(folder / "scan.h5", scan)
        words = ["--task", "csmri", "--kspace", str(folder / "scan.h5"), "--method", method]
        if run.main([*words, "--out", str(folder / "out"), "--quiet", "--no-report"]):
            raise InputError("run", "a reconstruction", "an error", "see above")
        image = nib.as_closest_canonical(nib.load(folder / "out" / "recon.nii.gz"))
        task = json.loads((folder / "out" / "run.json").read_text())["task"]
        return np.ascontiguousarray(image.dataobj, np.float32), {"task": task}


def by_bart(scan: KSpace, method: str, truth: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """The best of BART's weights."""
    # Of its maps BART knows nothing.
    operator = CoilFourier(scan.mask, np.ones((scan.data.shape[1], *scan.mask.shape), np.complex64))
    problem = InverseProblem(_PLANE, truth.shape, operator, scan.data, name="csmri")
    trial = bart.best(problem, method, truth, kernels.get_threads())
    return trial.result.volume, {"weight": trial.weight}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """PSNR of the tissue: a row a head and acceleration, a column a method."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = []
    for volume, acceleration in dict.fromkeys((row["volume"], row["acceleration"]) for row in rows):
        of = {
            row["method"]: f"{row['tissue_psnr_db']:.1f}"
            for row in rows
            if (row["volume"], row["acceleration"]) == (volume, acceleration)
        }
        lines.append((volume, f"×{acceleration:g}", *(of.get(method, "–") for method in methods)))
    titles = [bart.PEERS[method][0] if method in bart.PEERS else method for method in methods]
    return markdown(("head", "acceleration", *titles), lines)


if __name__ == "__main__":
    sys.exit(main())
