"""One, two and three stacks of thick slices of one head: ``python benchmarks/stacks.py``.

Every stack is thick along another axis. Either none has moved, or all but the first by 3 mm and 3 degrees that no
header tells. Every row is a run of `engine.run`, as a user starts it, on files; it is written as soon as it is done,
and not done again by the same command.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from benchmarks.lib.cells import Truth, psnr_figures
from benchmarks.lib.command import parser_of, report_of, rows_of_today, write
from benchmarks.lib.table import markdown
from engine import demo, run
from engine.cli import exit_code
from engine.errors import InputError
from engine.io.volumes import save_nifti
from engine.report.metrics import per_plane, tissue_psnr

#: Axes along which the stacks are thick, in order: axial, sagittal, coronal.
AXES = (2, 0, 1)
MOVED_MM, MOVED_DEG = 3.0, 3.0
#: Directions of rotation and translation of the second and third stack.
_DIRECTIONS = (((0, 0, 0), (0, 0, 0)), ((2, 1.5, -1.7), (1.5, -2, 1.5)), ((-1, 2, 2), (0.5, 2, -2.2)))
#: Number of stacks, and whether they moved.
CASES = ((1, False), (2, False), (3, False), (2, True), (3, True))


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("stacks", __doc__.split(":")[0])
    parser.add_argument("--volumes", nargs="+", default=["demo"], metavar="FILE", help="NIfTI; demo: the demonstration")
    parser.add_argument("--voxel-mm", type=float, default=demo.VOXEL_MM, metavar="MM", help="of the truth")
    parser.add_argument("--factors", type=int, nargs="+", default=[4], help="thick slices over voxels")
    parser.add_argument("--methods", nargs="+", default=["tpdm"], help="of engine.run; cubic is in each of them")
    parser.add_argument("--name", default="stacks", help="what the name of the written file begins with")
    args = parser.parse_args(argv)

    def body() -> int:
        rows = rows_of_today(args.results, args.name)
        for file in args.volumes:
            truth = Truth.read(file, None if file == "demo" else args.voxel_mm)
            for factor in args.factors:
                for n, moved in CASES:
                    for method in args.methods:
                        key = {"volume": truth.name, "factor": factor, "stacks": n, "moved": moved, "method": method}
                        if any(all(row[name] == value for name, value in key.items()) for row in rows):
                            continue
                        rows.append({**key, **result_of(truth.data, args.voxel_mm, factor, n, moved, method)})
                        print(json.dumps(rows[-1]), flush=True)
                        write(report_of("stacks", argv, rows=rows), args.results, args.name)
        print(table(rows))
        return 0

    return exit_code("stacks", body, interrupted="the same command goes on where this one stopped")


def result_of(truth: np.ndarray, voxel_mm: float, factor: int, n: int, moved: bool, method: str) -> dict[str, Any]:
    """Figures of one run."""
    # Whole blocks along every axis.
    truth = np.ascontiguousarray(truth[tuple(slice(size // factor * factor) for size in truth.shape)])
    with tempfile.TemporaryDirectory() as name:
        folder, words = Path(name), ["--task", "mrzsr", "--method", method]
        for i in range(n):
            path = folder / f"stack{i}.nii.gz"
            save_nifti(path, *stack_of(truth, voxel_mm, factor, i, moved))
            words += ["--thick", str(path)]
        if n == 1:
            words += ["--factor", str(factor)]
        elif not moved:
            words += ["--align", "header"]
        if run.main([*words, "--out", str(folder / "out"), "--quiet", "--no-report"]):
            raise InputError("run", "a reconstruction", "an error", "see above")
        record = json.loads((folder / "out" / "run.json").read_text())
        volumes = {
            kind: _on_grid(folder / "out" / f"{kind}.nii.gz", truth.shape, voxel_mm) for kind in ("recon", "cubic")
        }
    figures = {
        kind: {"tissue_psnr_db": tissue_psnr(truth, volume), **psnr_figures(per_plane(truth, volume))}
        for kind, volume in volumes.items()
    }
    kept = {name: record[name] for name in ("sampling_seconds", "shape")}
    return {**figures, **kept, "task": record["task"]}


def stack_of(truth: np.ndarray, voxel_mm: float, factor: int, i: int, moved: bool) -> tuple[np.ndarray, np.ndarray]:
    """Data and affine of the stack of that number; its affine knows of no motion."""
    axis, (turn, shift) = AXES[i], _DIRECTIONS[i]
    if moved and i > 0:
        matrix = Rotation.from_rotvec(np.radians(MOVED_DEG) * np.array(turn) / np.linalg.norm(turn)).as_matrix()
        middle = (np.array(truth.shape) - 1) / 2
        step = np.array(shift) / np.linalg.norm(shift) * MOVED_MM / voxel_mm
        # Another interpolation than the operator's own.
        truth = ndimage.affine_transform(truth, matrix, middle - matrix @ middle + step, order=5)
    shape = [*truth.shape]
    shape[axis : axis + 1] = [shape[axis] // factor, factor]
    affine = np.diag([voxel_mm] * 3 + [1.0])
    affine[axis, axis], affine[axis, 3] = voxel_mm * factor, voxel_mm * (factor - 1) / 2
    return truth.reshape(shape).mean(axis + 1).astype(np.float32), affine


def _on_grid(path: Path, shape: tuple[int, ...], voxel_mm: float) -> np.ndarray:
    """A volume on the truth's grid, on whose voxels its own lie."""
    image = nib.as_closest_canonical(nib.load(path))
    data = np.asarray(image.dataobj, np.float32)
    first = np.rint(-image.affine[:3, 3] / voxel_mm).astype(int)
    return np.ascontiguousarray(
        data[tuple(slice(start, start + size) for start, size in zip(first, shape, strict=True))]
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """PSNR of the tissue: a row a head, factor and method, and a column for the stacks."""
    heads = [f"{n} {'stack' if n == 1 else 'stacks'}{', moved' if moved else ''}" for n, moved in CASES]
    lines = []
    for volume, factor, method in dict.fromkeys((row["volume"], row["factor"], row["method"]) for row in rows):
        for kind in ("recon", "cubic"):
            of = {
                (row["stacks"], row["moved"]): row[kind]["tissue_psnr_db"]
                for row in rows
                if (row["volume"], row["factor"], row["method"]) == (volume, factor, method)
            }
            cells = [f"{of[case]:.1f}" if case in of else "–" for case in CASES]
            lines.append((volume, f"×{factor}", "cubic splines" if kind == "cubic" else method, *cells))
    return markdown(("head", "thickness", "", *heads), lines)


if __name__ == "__main__":
    sys.exit(main())
