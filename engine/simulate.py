"""Turn a volume into a file with a measurement: ``python -m engine.simulate --task csmri --out scan.h5``.

So every way of reading measurements can be tried from one volume. The command that reconstructs the file is printed.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.cli import HelpFormatter, exit_code, writing_to
from engine.errors import InputError, in_one_line
from engine.io.measurements.cone_geometry import save_cone_geometry
from engine.io.measurements.fastmri import save_fastmri
from engine.io.measurements.geometry import pixel_mm_of, save_geometry
from engine.io.measurements.kspace import KSpace
from engine.io.measurements.sinogram import Sinogram, save_integrals, save_sinogram
from engine.io.volumes import save_volume
from engine.io.volumes.numpy_files import write_npy
from engine.job.configuration import parse
from engine.job.measurement import VolumeFile, simulated
from engine.operators import CoilFourier, ConeBeam, MaskedFourier, Radon, ThickSlices
from engine.options import Options, add_options, option, read
from engine.problems.acquisition import Acquisition
from engine.problems.pose import AXIAL, rms_of_samples
from engine.problems.tasks import Measurement
from engine.sampling.problem import InverseProblem
from engine.volume import NAMED_PLANES, Plane

#: Endings of the file by task.
_SUFFIXES = {
    "csmri": (".h5",),
    "mrzsr": (".nii.gz", ".nii", ".npy", ".tif"),
    "svct": (".npy", ".h5", ".tif"),
}


@dataclass(frozen=True)
class Call(Options):
    """A simulation, apart from its details."""

    task: str = option(choices=tuple(_SUFFIXES), help="measurement: k-space, thick slices or few CT views")
    out: Path = option(
        help="file to write: csmri .h5 (the layout of fastMRI), mrzsr .nii.gz, .npy or .tif, svct .npy, .h5 or .tif "
        "with the geometry beside it in .json",
    )
    seed: int = option(0, low=0, high=2**64 - 1, help="seed of sampling mask and noise", remedy="choose another")
    plane: str | None = option(
        None,
        choices=tuple(NAMED_PLANES),
        default_words="axial; mrzsr one that shows the thick axis",
        help="plane of the slices that are measured",
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engine.simulate",
        usage="%(prog)s --task {csmri,mrzsr,svct} --out FILE [OPTIONS]",
        description="Simulate a measurement of a volume, and write it to a file.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser, Call)
    add_options(parser.add_argument_group("volume and measurement"), VolumeFile, Measurement)
    return parser


def write(scan: Acquisition, problem: InverseProblem, out: Path) -> list[str]:
    """Write a simulated measurement in the units of the volume's file; return the options that read it.

    Parameters
    ----------
    scan : Acquisition
    problem : InverseProblem
        That of the scan.
    out : Path
        Its ending has to suit the task.

    Raises
    ------
    InputError
        Another ending.
    """
    if not out.name.endswith(_SUFFIXES[problem.name]):
        raise InputError(
            "out",
            f"a name that ends in {' or '.join(_SUFFIXES[problem.name])} for {problem.name}",
            f"'{out.name}'",
            "rename it",
        )
    operator, y = problem.operator, problem.measurement
    assert operator is not None and y is not None
    scale = np.float32(scan.scale)
    if isinstance(operator, ThickSlices):
        axis, factor = scan.thick_axis, operator.factor
        assert axis is not None
        coarser = np.eye(4)
        coarser[axis, axis], coarser[axis, 3] = factor, (factor - 1) / 2
        save_volume(out, scan.in_file_units(problem.plane.volume_of(y)), scan.affine @ coarser, scan.orientation)
        options = ["--thick", out, "--factor", factor, "--thick-axis", axis]
        options += ["--white", repr(scan.scale + scan.offset)] + (["--black", repr(scan.offset)] if scan.offset else [])
        if not operator.is_block_mean:
            options += ["--slice-profile", operator.profile, "--gap", operator.gap]
    elif isinstance(operator, (MaskedFourier, CoilFourier)):
        h, w = operator.slice_shape
        kspace = KSpace(y * scale, operator.mask, problem.plane, scan.affine, ((0, h), (0, w)), scan.source)
        save_fastmri(out, kspace)
        options = ["--kspace", out, "--phase", "none"]
        if isinstance(operator, CoilFourier):
            maps = out.with_name(f"{out.stem}-maps.npy")
            # The layout of the file is that of the stack.
            write_npy(maps, operator.maps)
            options += ["--coil-maps", maps]
    elif isinstance(operator, Radon):
        sinogram = Sinogram(y * scale, operator.geometry, operator.slice_shape, problem.plane, scan.affine, scan.source)
        geometry = out.with_suffix(".json")
        save_sinogram(out, sinogram)
        save_geometry(geometry, operator.geometry, operator.slice_shape, problem.plane, scan.affine)
        options = ["--sinogram", out, "--geometry", geometry]
    elif isinstance(operator, ConeBeam):
        geometry = out.with_suffix(".json")
        save_cone_geometry(geometry, operator.geometry, AXIAL, scan.affine)
        save_integrals(out, operator.projections_of(y) * scale, pixel_mm_of(scan.affine, AXIAL))
        options = ["--sinogram", out, "--geometry", geometry]
    else:
        raise TypeError(f"no file for {type(operator).__name__}")
    if not isinstance(operator, ThickSlices):
        # The transform of what is brighter than black: a constant would be no object's.
        options += ["--white", repr(scan.scale)]
    # In the unit that whoever reads the file knows: of samples with their noise.
    rms = rms_of_samples(y)
    level = problem.noise_level / rms if rms else 0.0
    return [str(word) for word in (*options, "--noise-level", level)]


def main(argv: Sequence[str] | None = None) -> int:
    return exit_code("engine.simulate", lambda: _simulate(parse(build_parser(), argv)))


def _simulate(args: argparse.Namespace) -> None:
    call, scan = read(Call, args), simulated(args)
    names = [call.plane] if call.plane else list(NAMED_PLANES)
    plane = next((p for p in map(Plane.parse, names) if not scan.unsuitable(p)), Plane.parse(names[0]))
    problem = scan.problem(plane)
    with writing_to(call.out):
        call.out.parent.mkdir(parents=True, exist_ok=True)
        options = write(scan, problem, call.out)
    print(in_one_line(f"{call.out}: {problem.name} {problem.details}"))
    if scan.offset and not isinstance(problem.operator, ThickSlices):
        # What a scanner measures knows no offset: outside of the body a sinogram and k-space hold nothing.
        print(
            f"intensities count from black, which is {scan.offset:g} in the volume's file: add {scan.offset:g} to what "
            "is reconstructed from this measurement to compare it with the volume"
        )
    print("python -m engine.run --task", problem.name, in_one_line(shlex.join(options)))


if __name__ == "__main__":
    sys.exit(main())
