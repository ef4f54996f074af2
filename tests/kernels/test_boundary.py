"""Nothing of a wrong type, rank, size or layout reaches native code, and the refusal says what to do."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import kernels
from kernels import FanGeometry, ParallelGeometry

GEOMETRY = ParallelGeometry.from_views(256, 36)
FLOATS = np.zeros((2, 256, 256), np.float32)
SINOGRAM = np.zeros((2, 36, 363), np.float32)


def refused(error, message, call, *args, **kwargs):
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert str(caught.value) == message


def test_sinogram_with_another_number_of_views():
    refused(
        ValueError,
        "sinogram: expected (n, 36, 363) float32, got (8, 180, 363) float32; rebuild the geometry with 180 angles",
        kernels.radon_adjoint,
        np.zeros((8, 180, 363), np.float32),
        GEOMETRY,
    )


def test_sinogram_with_another_number_of_bins():
    refused(
        ValueError,
        "sinogram: expected (n, 36, 363) float32, got (8, 36, 91) float32; "
        "rebuild the geometry for a detector of 91 bins",
        kernels.radon_fbp,
        np.zeros((8, 36, 91), np.float32),
        GEOMETRY,
    )


def test_images_of_another_size():
    refused(
        ValueError,
        "images: expected (n, 256, 256) float32, got (8, 64, 64) float32; rebuild the geometry for 64 x 64 images",
        kernels.radon_forward,
        np.zeros((8, 64, 64), np.float32),
        GEOMETRY,
    )


@pytest.mark.parametrize("name", ["radon_forward", "radon_adjoint", "radon_fbp"])
def test_projection_arrays(name):
    call = getattr(kernels, name)
    good = FLOATS if name == "radon_forward" else SINOGRAM
    assert call(good, GEOMETRY).dtype == np.float32
    for wrong, error in [
        (good[0], ValueError),  # rank too low
        (good[None], ValueError),  # rank too high
        (good[:, :-1], ValueError),  # size
        (good[:, ::-1], ValueError),  # layout: negative stride
        (np.asfortranarray(good), ValueError),  # layout: order
        (np.zeros((4, *good.shape[1:]), np.float32)[::2], ValueError),  # layout: gaps
        (good.astype(np.float64), TypeError),
        (good.astype(">f4"), TypeError),  # byte order
        (good.tolist(), TypeError),
        (None, TypeError),
    ]:
        with pytest.raises(error, match=r"(images|sinogram): expected \(n, .*, got .*; "):
            call(wrong, GEOMETRY)


def test_layout_message_names_the_remedy():
    with pytest.raises(ValueError, match=r"C-contiguous, got .* pass numpy.ascontiguousarray\(images\)$"):
        kernels.radon_forward(np.asfortranarray(FLOATS), GEOMETRY)


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ((-1, 0, 0, 4), ValueError, "seed"),
        ((1 << 64, 0, 0, 4), ValueError, "seed"),
        ((0.0, 0, 0, 4), TypeError, "seed"),
        ((0, 1 << 32, 0, 4), ValueError, "step"),
        ((0, 0, -1, 4), ValueError, "phase"),
        ((0, 0, 0, (4, -1)), ValueError, "shape"),
        ((0, 0, 0, (4, 1.5)), TypeError, "shape"),
        ((0, 0, 0, 4, -1), ValueError, "start"),
        ((0, 0, 0, 4, (1 << 63) - 3), ValueError, "start"),
    ],
)
def test_noise_arguments(arguments, error, name):
    with pytest.raises(error, match=f"{name}: expected an integer"):
        kernels.philox_normal(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1, 0, 0, (1, 1, 1)), ValueError, "seed: expected an integer"),
        ((0, 1 << 32, 0, (1, 1, 1)), ValueError, "step: expected an integer"),
        ((0, 0, 0.5, (1, 1, 1)), TypeError, "phase: expected an integer"),
        ((0, 0, 0, (1, 1)), ValueError, "strides: expected 3 integers, got "),
        ((0, 0, 0, (1, -1, 1)), ValueError, "strides: expected an integer"),
        ((0, 0, 0, (1, 1, 1), 1 << 63), ValueError, "start: expected an integer"),
    ],
)
def test_noise_key_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        kernels.NoiseKey(*arguments)


@pytest.mark.parametrize(
    ("key", "shape", "error", "message"),
    [
        ((0, 0, 0), (1, 1, 1), TypeError, "key: expected a NoiseKey, got tuple"),
        (kernels.NoiseKey(0, 0, 0, (1, 1, 1)), (1, 1), ValueError, "shape: expected 3 sizes, got 2"),
        (kernels.NoiseKey(0, 0, 0, (1, 1, 1)), (1, 1, -1), ValueError, "shape: expected an integer"),
        (kernels.NoiseKey(0, 0, 0, (1, 1, 1), (1 << 63) - 1), (1, 1, 2), ValueError, "noise: expected voxels below"),
    ],
)
def test_philox_slices_arguments(key, shape, error, message):
    with pytest.raises(error, match=message):
        kernels.philox_slices(key, shape)


def test_more_noise_than_there_are_indices():
    with pytest.raises(ValueError, match=r"^shape: expected less than 2\^63 entries"):
        kernels.philox_normal(0, 0, 0, (1 << 62, 2))


def test_philox_bits_arguments():
    good = np.zeros((2, 4), np.uint32)
    for counters, key, error in [
        (good.astype(np.int32), (0, 0), TypeError),
        (good[:, :3], (0, 0), ValueError),
        (good[0], (0, 0), ValueError),
        (good[:, ::-1], (0, 0), ValueError),
        (good, (0, 1 << 32), ValueError),
        (good, (0,), ValueError),
    ]:
        with pytest.raises(error, match=r"(counters|key): expected"):
            kernels.philox_bits(counters, key)


def test_geometry_arguments():
    for n, angles, error in [
        (0, [0.0], ValueError),
        (8.0, [0.0], TypeError),
        (8, [[0.0]], ValueError),
        (8, [float("nan")], ValueError),
    ]:
        with pytest.raises(error, match="expected"):
            ParallelGeometry(n, angles)
    with pytest.raises(ValueError, match="n_views: expected"):
        ParallelGeometry.from_views(8, -1)


@pytest.mark.parametrize(
    ("changes", "error", "name"),
    [
        ({"shape": (8,)}, ValueError, "shape"),
        ({"shape": (8, 0)}, ValueError, "shape"),
        ({"shape": (8.0, 8)}, TypeError, "shape"),
        ({"angles_rad": [float("inf")]}, ValueError, "angles_rad"),
        ({"source_distance": 7.0}, ValueError, "source_distance"),
        ({"source_distance": -20.0}, ValueError, "source_distance"),
        ({"detector_distance": -1.0}, ValueError, "detector_distance"),
        ({"n_bins": 0}, ValueError, "n_bins"),
        ({"bin_spacing": 0.0}, ValueError, "bin_spacing"),
        ({"bin_spacing": 100.0}, ValueError, "bin_spacing"),
        ({"bin_spacing": 1e-300}, ValueError, "bin_spacing"),
        ({"bin_spacing": "x"}, TypeError, "bin_spacing"),
        ({"bin_offset": float("nan")}, ValueError, "bin_offset"),
        ({"bin_offset": 1e11}, ValueError, "bin_offset"),
        ({"source_distance": 1e12}, ValueError, "bin_offset"),
        ({"shape": 8}, ValueError, "shape"),
        ({"angles_rad": ["a"]}, TypeError, "angles_rad"),
        ({"curved": True, "bin_spacing": 40.0}, ValueError, "n_bins"),
    ],
)
def test_fan_arguments(changes, error, name):
    good = {"shape": (8, 8), "angles_rad": [0.0], "source_distance": 20.0, "detector_distance": 20.0, "n_bins": 16}
    FanGeometry(**good)
    with pytest.raises(error, match=f"{name}: expected"):
        FanGeometry(**{**good, **changes})


def test_thread_count():
    for wrong, error in [(0, ValueError), (-1, ValueError), (2.0, TypeError)]:
        with pytest.raises(error, match="n: expected an integer"):
            kernels.set_threads(wrong)
    assert kernels.get_threads() >= 1


def test_thread_count_of_one_python_thread():
    before, seen = kernels.get_threads(), []
    with kernels.threads_here(7):
        with kernels.threads_here(3):
            assert kernels.get_threads() == 3
        assert kernels.get_threads() == 7
        other = threading.Thread(target=lambda: seen.append(kernels.get_threads()))
        other.start()
        other.join()
    assert kernels.get_threads() == before
    assert seen == [before]
    with pytest.raises(ValueError, match="n: expected"), kernels.threads_here(0):
        pass


def test_missing_native_module_names_the_remedy(tmp_path: Path):
    package = tmp_path / "kernels"
    package.mkdir()
    for source in Path(kernels.__file__).parent.glob("*.py"):
        (package / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    # -S: without site-packages, or an editable installation would still find its own compiled module.
    done = subprocess.run([sys.executable, "-S", "-c", "import kernels"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    last_line = done.stderr.strip().splitlines()[-1]
    assert last_line == "ImportError: kernels: native module not built; run `pip install -e .` in the repository root"
