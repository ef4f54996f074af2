"""A cell of the quality benchmark: one volume, problem, configuration and seed; how it is run, and kept."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import kernels
from benchmarks.lib.configurations import Configuration, Problem
from benchmarks.lib.machine import described
from benchmarks.peers import bart
from engine import demo
from engine.backends.bundle import Bundle
from engine.backends.native import NativeDenoiser
from engine.backends.padding import PaddedDenoiser
from engine.backends.shipped import PriorSet
from engine.errors import InputError
from engine.io.volumes import load_volume, resample, resample_isotropic
from engine.methods import solve
from engine.problems import simulate
from engine.report.metrics import per_plane, tissue_psnr
from engine.sampling.dps import published_weight
from engine.sampling.posterior_mean import Prior
from engine.sampling.problem import InverseProblem
from engine.volume import NAMED_PLANES, Plane

#: Raised by hand where the same settings no longer give the same result, or figures mean something else.
VERSION = 2


@dataclass(frozen=True)
class Truth:
    """A volume that is measured and reconstructed."""

    name: str
    data: np.ndarray
    sha256: str
    source: str

    @classmethod
    def read(cls, file: str, voxel_mm: float | None = None, axial_slices: int | None = None) -> Truth:
        """A file, whole, resampled to cubic voxels; or without a size the demonstration's cube around its tissue.

        The file "demo" is the demonstration's head. An array of the cube's size, which says nothing of its voxels, is
        taken as it is. A number of axial slices cuts the volume to those in its middle.
        """
        if file == "demo":
            volume = demo.volume()
        else:
            volume = load_volume(file)
            if voxel_mm is not None:
                volume = resample_isotropic(volume, voxel_mm)
            elif not (file.endswith(".npy") and volume.data.shape == (demo.SIZE,) * 3):
                volume = resample(volume, demo.SIZE, demo.VOXEL_MM)
        data = volume.data
        if axial_slices is not None:
            start = max(0, (data.shape[2] - axial_slices) // 2)
            data = data[..., start : start + axial_slices]
        data = np.ascontiguousarray(data)
        name = Path(file).name.split(".")[0]
        return cls(name, data, hashlib.sha256(data.tobytes()).hexdigest(), Path(volume.source).name)


@dataclass(frozen=True)
class Cell:
    truth: Truth
    problem: Problem
    configuration: Configuration
    seed: int

    @property
    def label(self) -> str:
        return f"{self.truth.name}, {self.problem.name}, {self.configuration.title}, seed {self.seed}"


class Laboratory:
    """Runs cells with the shipped priors, opened once.

    Parameters
    ----------
    n_threads : int
        For networks and operators.
    priors : PriorSet
    """

    def __init__(self, n_threads: int, priors: PriorSet):
        self.n_threads, self.priors = n_threads, priors
        self._opened: dict[str, tuple[Prior, str]] = {}

    def _prior(self, plane: str) -> tuple[Prior, str]:
        """The shipped prior of a plane, and its bundle's key."""
        if plane not in self._opened:
            known = Plane(NAMED_PLANES[plane])
            bundle = Bundle.open(self.priors.folder_of(known))
            denoiser = PaddedDenoiser(NativeDenoiser(bundle, n_threads=self.n_threads), bundle.divisor)
            self._opened[plane] = Prior(denoiser, known), bundle.manifest["key"]
        return self._opened[plane]

    def identity(self, cell: Cell) -> dict[str, Any]:
        """All that determines a cell's figures, its seconds included.

        Raises
        ------
        InputError
            There is no prior of a plane.
        """
        configuration = cell.configuration
        return {
            "version": VERSION,
            "volume": cell.truth.sha256,
            "task": cell.problem.task,
            "measurement": asdict(cell.problem.measurement(cell.truth.data.shape[0])),
            "measured_plane": configuration.measured_plane(cell.problem),
            "method": configuration.method,
            "settings": asdict(configuration.settings_for(cell.seed)),
            "dps_weight_multiple": configuration.weight,
            "priors": {plane: self._prior(plane)[1] for plane in configuration.planes_for(cell.problem)},
            "threads": self.n_threads,
        }

    def run(self, cell: Cell) -> tuple[dict[str, Any], np.ndarray | None]:
        """Reconstruct: what is kept of it, and the volume, None where it failed."""
        configuration, truth = cell.configuration, cell.truth.data
        plane = Plane(NAMED_PLANES[configuration.measured_plane(cell.problem)])
        problem = simulate(cell.problem.task, truth, plane, cell.problem.measurement(truth.shape[0]))
        settings = configuration.settings_for(cell.seed)
        if configuration.weight is not None:
            weight = configuration.weight * published_weight(problem, settings.group, settings.n_steps)
            settings = type(settings)(**{**asdict(settings), "dps_weight": weight})
        priors = [self._prior(name)[0] for name in configuration.planes_for(cell.problem)]
        kernels.set_threads(self.n_threads)
        started, cpu = time.perf_counter(), time.process_time()
        failure, figures, volume = None, None, None
        trial: bart.Trial | None = None
        try:
            if configuration.method in bart.PEERS:
                trial = bart.best(problem, configuration.method, truth, self.n_threads)
                result = trial.result
            else:
                # What diverges is recorded as such below.
                with np.errstate(over="ignore", invalid="ignore"):
                    result = solve(configuration.method, problem, priors, settings)
        except InputError as error:
            failure = str(error)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
        if trial is not None:
            seconds, cpu_seconds = result.seconds, trial.cpu_seconds
        if failure is None:
            failure, figures = measured(truth, result.volume, problem)
        if figures is not None:
            figures |= {"seconds": seconds, "cpu_seconds": cpu_seconds, "n_evaluations": result.n_evaluations}
            volume = result.volume
        kept = {"failure": failure, "figures": figures, "dps_weight": settings.dps_weight}
        if trial is not None:
            kept["peer_weight"] = trial.weight
        return {**kept, "date": date.today().isoformat(), "machine": described()}, volume


def psnr_figures(planes: Mapping[str, Any]) -> dict[str, float]:
    """Of what `per_plane` returns, the PSNR of the volume and that of the worst plane, in dB."""
    return {
        "psnr_db": planes["psnr_db"],
        "worst_plane_psnr_db": min(planes[name]["psnr_db"] for name in NAMED_PLANES),
    }


def measured(
    truth: np.ndarray, volume: np.ndarray, problem: InverseProblem
) -> tuple[str | None, dict[str, Any] | None]:
    """Why there are no figures, or the figures of a reconstruction."""
    n_bad = int((~np.isfinite(volume)).sum())
    if n_bad:
        return f"{n_bad} of {volume.size} voxels are not finite", None
    planes = per_plane(truth, volume)
    figures: dict[str, Any] = {
        **psnr_figures(planes),
        "tissue_psnr_db": tissue_psnr(truth, volume),
        "ssim": float(np.mean([planes[name]["ssim"] for name in NAMED_PLANES])),
        "streaks": streaks(truth, volume, problem.plane.slice_axis),
        "data_residual": _residual(volume, problem),
    }
    wrong = [name for name, value in figures.items() if not math.isfinite(value)]
    if wrong:
        return f"not finite: {', '.join(wrong)}", None
    return None, {**figures, "planes": {name: planes[name] for name in NAMED_PLANES}}


def streaks(truth: np.ndarray, volume: np.ndarray, slice_axis: int) -> float:
    """How much more a volume's error changes from slice to slice than within slices.

    The error e = volume − truth is compared with itself one voxel further: the mean of (e′ − e)² along the slice axis
    over that along the two axes within slices. Slices that were reconstructed without regard to each other show as
    streaks in perpendicular planes, and as a number far above 1; an error without direction gives 1 whatever its size,
    smooth or noisy; below 1 it is the error within slices that is streaky.

    Parameters
    ----------
    truth, volume : float32 (d0, d1, d2)
    slice_axis : int
        Of the plane that is measured.
    """
    error = volume.astype(np.float64) - truth
    energy = [float(np.mean(np.diff(error, axis=axis) ** 2)) for axis in range(3)]
    within = (sum(energy) - energy[slice_axis]) / 2
    return energy[slice_axis] / within if within else 1.0


def _residual(volume: np.ndarray, problem: InverseProblem) -> float:
    """‖A x − y‖ / ‖y‖."""
    operator, y = problem.measured()
    difference = operator.apply(problem.plane.slices_of(volume)) - y
    return float(np.linalg.norm(difference.ravel()) / np.linalg.norm(y.ravel()))


class Store:
    """Keeps finished cells in a folder: figures in KEY.json, the volume in KEY.npy.

    The JSON file is written last, and each file appears whole or not at all: what was interrupted is not there. What
    was damaged later is not there either.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @staticmethod
    def key(identity: dict[str, Any]) -> str:
        return _digest(identity)[:24]

    def read(self, identity: dict[str, Any]) -> dict[str, Any] | None:
        """What `write` was given, None where it is missing or damaged."""
        try:
            content = json.loads((self.folder / f"{self.key(identity)}.json").read_text())
            record: dict[str, Any] = content["record"]
            whole = content["digest"] == _digest([content["identity"], record]) and content["identity"] == identity
            if not whole or (record["figures"] is not None and self.volume(identity) is None):
                return None
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return record

    def write(self, identity: dict[str, Any], record: dict[str, Any], volume: np.ndarray | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        key = self.key(identity)
        if volume is not None:
            buffer = io.BytesIO()
            np.save(buffer, volume)
            self._put(f"{key}.npy", buffer.getvalue())
        content = {"identity": identity, "record": record, "digest": _digest([identity, record])}
        self._put(f"{key}.json", (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())

    def volume(self, identity: dict[str, Any]) -> np.ndarray | None:
        """A finished cell's volume, for pictures."""
        try:
            found: np.ndarray = np.load(self.folder / f"{self.key(identity)}.npy")
            return found
        except (OSError, ValueError, EOFError):
            return None

    def _put(self, name: str, content: bytes) -> None:
        temporary = self.folder / f".{name}.{os.getpid()}.part"
        try:
            temporary.write_bytes(content)
            os.replace(temporary, self.folder / name)
        finally:
            temporary.unlink(missing_ok=True)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
