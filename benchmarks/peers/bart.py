"""Compressed sensing by the BART toolbox (Debian's package ``bart``), a whole volume at once."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import InputError
from engine.methods.outcome import outcome_of
from engine.operators import CoilFourier, MaskedFourier
from engine.operators.transforms import uncentred
from engine.report.metrics import tissue_psnr
from engine.sampling.problem import InverseProblem
from engine.sampling.reconstruction import Reconstruction
from engine.sampling.settings import Settings

#: Configurations by name: title, and BART's letter for what is to be sparse.
PEERS = {"bart-tv": ("BART, total variation", "T"), "bart-wavelet": ("BART, wavelets", "W")}
#: Of its regularisation, relative to the zero-filled image's scale, which BART takes by itself.
WEIGHTS = (3e-4, 1e-3, 3e-3, 1e-2)
_ITERATIONS = 100
#: Side of the centre of k-space from which sensitivities are found, at most.
_CALIBRATION = 20
#: BART's arrays have this many axes.
_AXES = 16


@dataclass(frozen=True)
class Trial:
    """A reconstruction, the weight of its regularisation, and the processor time that it took."""

    result: Reconstruction
    weight: float
    cpu_seconds: float


def best(problem: InverseProblem, name: str, truth: np.ndarray, n_threads: int) -> Trial:
    """The best of four weights, by the truth: what a user who tries them may hope for.

    Parameters
    ----------
    problem : InverseProblem
    name : str
        One of `PEERS`.
    truth : float32 (d0, d1, d2)
    n_threads : int

    Raises
    ------
    InputError
        As `pics`.
    """
    tried = []
    for weight in WEIGHTS:
        started, cpu = time.monotonic(), _cpu_seconds()
        slices = pics(problem, PEERS[name][1], weight, n_threads)
        result = outcome_of(problem, slices, Settings(), None, time.monotonic() - started)
        tried.append(Trial(result, weight, _cpu_seconds() - cpu))
    return max(tried, key=lambda trial: tissue_psnr(truth, trial.result.volume))


def pics(problem: InverseProblem, regulariser: str, weight: float, n_threads: int) -> np.ndarray:
    """Reconstruct with a sparsity prior over all three axes, which slice-wise methods lack.

    Parameters
    ----------
    problem : InverseProblem
        Of a masked Fourier transform, of one coil or several; BART finds the sensitivities itself (``ecalib``).
    regulariser : str
        BART's letter: "T" total variation, "W" wavelets.
    weight : float
    n_threads : int

    Returns
    -------
    float32 (n, h, w)
        Slices in the problem's plane; of several coils, whose images have a phase, the magnitude.

    Raises
    ------
    InputError
        BART is not installed, refuses, or does not take such a problem.

    Source: Uecker et al., Berkeley Advanced Reconstruction Toolbox, ISMRM 2015; Uecker et al., ESPIRiT, 2014.
    """
    operator, y = problem.measured()
    if not isinstance(operator, (MaskedFourier, CoilFourier)):
        raise InputError("methods", "BART for k-space alone", f"'{problem.name}'", "leave it out")
    program = shutil.which("bart")
    if program is None:
        raise InputError("methods", "the program bart", "none", "`apt-get install bart`, or leave it out")
    has_coils = isinstance(operator, CoilFourier)
    coils = (y if has_coils else y[:, None]).swapaxes(0, 1)
    images = [np.fft.ifft2(uncentred(coil, np)) for coil in coils]
    shape = coils.shape[1:]
    sampled = np.broadcast_to(operator.mask != 0, shape)

    def spectra(part: slice) -> np.ndarray:
        """Of some slices, the coils last."""
        return np.stack([_spectrum_of(image[part]) for image in images], axis=-1) * sampled[part, ..., None]

    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in ("kspace", "pattern", "maps", "image")}

        def call(*words: object) -> None:
            done = subprocess.run(
                [str(program), *map(str, words)],
                env={**os.environ, "OMP_NUM_THREADS": str(n_threads)},
                capture_output=True,
                text=True,
            )
            if done.returncode:
                remedy = "leave it out"
                raise InputError("methods", f"an answer of bart {words[0]}", done.stderr.strip() or "none", remedy)

        _write(files["kspace"], spectra(slice(None)))
        _write(files["pattern"], sampled)
        maps = np.ones((*shape, len(coils)), np.complex64)
        for i in range(len(maps) if has_coils else 0):
            # Slice by slice: of a few slices at once it finds none.
            one = Path(folder) / "slice", Path(folder) / "slice_maps"
            _write(one[0], spectra(slice(i, i + 1)))
            call("ecalib", "-m", 1, "-r", _CALIBRATION, *one)
            maps[i] = _read(one[1], maps[i : i + 1].shape)[0]
        _write(files["maps"], maps)
        words = ["-S", "-d", 0, "-i", _ITERATIONS, "-R", f"{regulariser}:7:0:{weight}", "-p", files["pattern"]]
        # Told that the image is real, where it is.
        call("pics", *([] if has_coils else ["-c"]), *words, files["kspace"], files["maps"], files["image"])
        # Its unitary transform leaves images with the square root of their number of voxels.
        image = _read(files["image"], shape) / np.float32(np.sqrt(np.prod(shape)))
    return np.ascontiguousarray(abs(image) if has_coils else image.real)


def _spectrum_of(image: np.ndarray) -> np.ndarray:
    """What ``pics`` takes for the k-space of an image: centred along all axes, with a convention of its own.

    Its transform differs from a centred one by a constant phase, exp(2πi c²/n) for the middle c of n samples, and for
    odd n by a pixel: found by asking it for images that are known.
    """
    for axis, n in enumerate(image.shape):
        image = np.roll(image, -(n % 2), axis) * np.exp(-2j * np.pi * (n // 2) ** 2 / n)
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(image)))


def _cpu_seconds() -> float:
    """Processor time of this process's finished children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _write(path: Path, array: np.ndarray) -> None:
    """Write a .cfl file: complex64, the first axis innermost."""
    sides = [*array.shape, *[1] * (_AXES - array.ndim)]
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{' '.join(map(str, sides))}\n")
    array.astype(np.complex64).ravel(order="F").tofile(path.with_suffix(".cfl"))


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    return np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(shape, order="F")
