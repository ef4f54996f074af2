"""Measurements from files beside their simulation: ``python benchmarks/measured.py``.

The demonstration's head is measured, with some noise, and written to a file. It is reconstructed as a simulation; from
the file, with everything stated that the simulation knows; and from the file alone, with white, noise level, coil maps
and the image's phase estimated. The last row's head has a phase that varies, as those of scanners have.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks.lib.cells import psnr_figures
from benchmarks.lib.command import parser_of, report_of, write
from benchmarks.lib.table import markdown
from engine import demo, run, simulate
from engine.errors import InputError
from engine.io.measurements.fastmri import save_fastmri
from engine.io.measurements.kspace import KSpace
from engine.operators import CoilFourier
from engine.problems.coil_maps import simulated
from engine.problems.masks import poisson_disc
from engine.report.metrics import per_plane
from engine.volume import NAMED_PLANES, Plane

#: By title: task, file, and options of the simulation.
MODES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "`--thick`, factor 4": ("mrzsr", "thick.nii.gz", ("--factor", "4")),
    "`--kspace`, one coil, ×4": ("csmri", "scan.h5", ("--acceleration", "4")),
    "`--kspace`, 8 coils, ×6": ("csmri", "scan.h5", ("--acceleration", "6", "--coils", "8")),
    "`--sinogram`, 20 views": ("svct", "sinogram.npy", ("--views", "20")),
}
#: Options that say what else would be estimated, and how many words each takes.
_STATES = {"--white": 2, "--noise-level": 2, "--phase": 2, "--coil-maps": 2, "--factor": 2, "--thick-axis": 2}
#: The phase of the last row, in radians from one side of the head to the other.
_TURN_RAD = 3.0


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("measured", __doc__.split(":")[0])
    parser.add_argument("--noise", type=float, default=0.01, help="part of the samples' root mean square")
    parser.add_argument("--steps", type=int, default=20, help="of the fast preset")
    args = parser.parse_args(argv)
    common = ("--steps", str(args.steps), "--quiet", "--no-report")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = {title: of_mode(folder, *mode, args.noise, common) for title, mode in MODES.items()}
        rows["`--kspace`, 8 coils, ×6, with a phase"] = of_phase(folder, args.noise, common)
    print(table(rows))
    write(report_of("measured", argv, noise=args.noise, rows=rows), args.results, "measured")
    return 0


def of_mode(
    folder: Path, task: str, name: str, options: tuple[str, ...], noise: float, common: tuple[str, ...]
) -> dict[str, Any]:
    """PSNR of one way to read measurements."""
    words = ["--task", task, "--noise", str(noise), *options]
    printed = StringIO()
    with redirect_stdout(printed):
        _checked(simulate.main([*words, "--out", str(folder / name)]))
    stated = shlex.split(printed.getvalue().splitlines()[-1])[3:]
    return {
        "task": task,
        "simulation": psnr_of(folder, [*words, *common]),
        "stated": psnr_of(folder, [*stated, *common]),
        "estimated": psnr_of(folder, [*_without(stated), *common]),
    }


def of_phase(folder: Path, noise: float, common: tuple[str, ...]) -> dict[str, Any]:
    """PSNR with k-space of a head whose phase turns, of which the file alone is known."""
    head, plane = demo.volume(), Plane(NAMED_PLANES["axial"])
    slices = plane.slices_of(head.data)
    n, h, w = slices.shape
    x, y = np.linspace(-0.5, 0.5, h)[:, None], np.linspace(-0.5, 0.5, w)
    image = (slices * np.exp(1j * _TURN_RAD * (x + 2 * x * y))).astype(np.complex64)
    operator = CoilFourier(poisson_disc((h, w), 6.0, 0), simulated(8, (n, h, w)), np.complex64)
    samples = operator.apply(image)
    taken = samples[samples != 0]
    generator = np.random.default_rng(0)
    z = generator.standard_normal((2, *samples.shape), np.float32)
    level = noise * np.sqrt(np.mean(np.abs(taken) ** 2))
    samples = ((samples + level * (z[0] + 1j * z[1])) * operator.mask * head.scale).astype(np.complex64)
    save_fastmri(folder / "phase.h5", KSpace(samples, operator.mask, plane, head.affine, ((0, h), (0, w)), "phase.h5"))
    words = ["--task", "csmri", "--kspace", str(folder / "phase.h5")]
    return {
        "task": "csmri",
        "simulation": None,
        "stated": None,
        "estimated": psnr_of(folder, [*words, *common]),
        "phase none": psnr_of(folder, [*words, *common, "--phase", "none"]),
    }


def psnr_of(folder: Path, words: list[str]) -> dict[str, float]:
    """PSNR in dB, of the volume and of the worst plane, and the noise level that was expected."""
    _checked(run.main([*words, "--out", str(folder / "out"), "--overwrite"]))
    head = demo.volume()
    recon = np.asarray(nib.load(folder / "out" / "recon.nii.gz").dataobj, np.float32) / np.float32(head.scale)
    task = json.loads((folder / "out" / "run.json").read_text())["task"]
    return {**psnr_figures(per_plane(head.data, recon)), "noise_level": float(task["noise_level"])}


def _without(words: list[str]) -> list[str]:
    """The options that a file alone leaves to say."""
    left, skip = [], 0
    for word in words:
        skip = _STATES.get(word, skip)
        if skip:
            skip -= 1
        else:
            left.append(word)
    return left


def _checked(code: int) -> None:
    if code:
        raise InputError("run", "a reconstruction", "an error", "see above")


def table(rows: dict[str, Any]) -> str:
    """PSNR of the worst plane: a row a way to read, a column for what was known."""
    lines = []
    for title, row in rows.items():
        cells = [
            "–" if row[key] is None else f"{row[key]['worst_plane_psnr_db']:.2f} dB"
            for key in ("simulation", "stated", "estimated")
        ]
        lines.append((title, *cells))
    return markdown(("measurement", "simulated", "from a file, all stated", "from the file alone"), lines)


if __name__ == "__main__":
    sys.exit(main())
