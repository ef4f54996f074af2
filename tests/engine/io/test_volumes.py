"""Volumes from files and back, and what becomes of files that are no volumes."""

from __future__ import annotations

import gzip
import os
import resource
import subprocess
import sys
import textwrap
import tracemalloc
from io import BytesIO

import nibabel as nib
import numpy as np
import pytest

from engine.errors import InputError
from engine.io.volumes.dicom import Series
from engine.io.volumes.reading import Thickness
from engine.io.volumes.volume import load_volume, normalised, save_nifti, save_volume
from tests.refusals import one_sentence

SHAPE = (6, 7, 8)


def numbers(shape=SHAPE):
    """Positive, all different, so that a wrong order shows."""
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def oblique():
    """20° about x and 10° about z, voxels 1 × 1.5 × 2 mm, off the origin."""
    a, b = np.deg2rad([20, 10])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag([1.0, 1.5, 2.0])
    affine[:3, 3] = [-30, 12, 7]
    return affine


def refused(name="volume"):
    return one_sentence(name)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_round_trip_keeps_voxels_and_place(tmp_path, suffix):
    path, data = tmp_path / f"a{suffix}", numbers()
    save_nifti(path, data, oblique())
    volume = load_volume(path)
    assert volume.data.dtype == np.float32
    assert volume.data.flags.c_contiguous
    np.testing.assert_allclose(volume.data * volume.scale, data, rtol=1e-6)
    np.testing.assert_allclose(volume.affine, oblique(), atol=1e-6)  # NIfTI keeps affines in float32
    np.testing.assert_allclose(volume.voxel_mm, [1, 1.5, 2], atol=1e-6)
    assert volume.source == str(path)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
def test_flipped_and_swapped_axes_come_back_canonical(tmp_path, order, signs):
    canonical, data = oblique(), numbers()
    # The same volume stored with axes in another order and direction.
    stored = data.transpose(order)[tuple(slice(None, None, s) for s in signs)]
    move = np.zeros((4, 4))
    move[3, 3] = 1
    for axis, (target, sign) in enumerate(zip(order, signs, strict=True)):
        move[target, axis] = sign
        move[target, 3] = 0 if sign > 0 else data.shape[target] - 1
    nib.save(nib.Nifti1Image(stored, canonical @ move), tmp_path / "a.nii")
    volume = load_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.data * volume.scale, data, rtol=1e-6)
    np.testing.assert_allclose(volume.affine, canonical, atol=1e-5)


def test_integers_with_slope_and_intercept_are_scaled(tmp_path):
    image = nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(4, 5, 6), np.eye(4))
    image.header.set_slope_inter(2.0, 10.0)
    nib.save(image, tmp_path / "a.nii.gz")
    volume = load_volume(tmp_path / "a.nii.gz")
    stored = np.asanyarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    np.testing.assert_allclose(volume.data * volume.scale, stored, rtol=1e-6)


@pytest.mark.parametrize("extra", [(1,), (1, 1)])
def test_trailing_axes_of_one_are_dropped(tmp_path, extra):
    nib.save(nib.Nifti1Image(numbers().reshape(*SHAPE, *extra), np.eye(4)), tmp_path / "a.nii.gz")
    volume = load_volume(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(volume.data * volume.scale, numbers(), rtol=1e-6)


def ct():
    """A head in Hounsfield units: air, soft tissue, some bone, noise."""
    rng = np.random.default_rng(0)
    data = np.full((20, 20, 20), -1000.0)
    data[4:16, 4:16, 4:16] = 40
    data[4:6, 4:16, 4:16] = 1500
    return (data + rng.normal(0, 5, data.shape)).astype(np.float32)


def test_hounsfield_units_begin_at_air():
    data = ct()
    volume = normalised(data, np.eye(4), "test")
    assert volume.offset == pytest.approx(-1000, abs=30)
    assert volume.offset + volume.scale == pytest.approx(np.percentile(data[data > 0], 99.5))
    assert np.percentile(volume.data, 1) == pytest.approx(0, abs=0.02)
    assert np.median(volume.data[5:15, 5:15, 5:15]) == pytest.approx(1040 / 2500, abs=0.02)
    np.testing.assert_allclose(volume.in_file_units(volume.data), data, atol=1e-6 * np.abs(data).max())
    assert volume.in_file_units(volume.data).dtype == np.float32


@pytest.mark.parametrize(("part", "level", "moved"), [(0.009, -1.0, False), (0.02, -0.05, False), (0.02, -0.2, True)])
def test_few_or_small_negative_values_move_nothing(part, level, moved):
    rng = np.random.default_rng(0)
    data = rng.uniform(0.01, 100, (20, 20, 20)).astype(np.float32)
    expected = float(np.percentile(data[data > 0], 99.5))
    data.ravel()[rng.permutation(data.size)[: int(part * data.size)]] = level * expected
    volume = normalised(data, np.eye(4), "test")
    assert (volume.offset != 0) == moved
    if not moved:
        # As before there were offsets, to the bit.
        scale = float(np.percentile(data[data > 0], 99.5))
        assert volume.scale == scale
        np.testing.assert_array_equal(volume.data, data / np.float32(scale))
        np.testing.assert_array_equal(volume.in_file_units(volume.data), volume.data * np.float32(scale))


def test_noise_around_zero_is_none_of_hounsfield_units():
    rng = np.random.default_rng(0)
    data = np.zeros((20, 20, 20))
    data[4:16, 4:16, 4:16] = 1
    noisy = (data + rng.normal(0, 0.1, data.shape)).astype(np.float32)
    assert (noisy < -0.1).mean() > 0.05
    assert normalised(noisy, np.eye(4), "test").offset == 0


def test_white_that_is_given_becomes_one(tmp_path):
    np.save(tmp_path / "a.npy", numbers())
    volume = load_volume(tmp_path / "a.npy", white=84.0)
    assert (volume.scale, volume.offset) == (84.0, 0.0)
    assert volume.data[numbers() == 84] == 1
    np.save(tmp_path / "ct.npy", ct())
    volume = load_volume(tmp_path / "ct.npy", white=240.0)
    np.testing.assert_allclose(volume.in_file_units(np.ones(3, np.float32)), 240, rtol=1e-6)
    assert volume.offset == load_volume(tmp_path / "ct.npy").offset
    assert load_volume(tmp_path / "ct.npy", white=-500).scale == pytest.approx(500, abs=30)


@pytest.mark.parametrize("white", [0.0, -5.0, np.nan, np.inf, -np.inf])
def test_white_that_is_no_white_is_refused(tmp_path, white):
    np.save(tmp_path / "a.npy", numbers())
    with refused("white"):
        load_volume(tmp_path / "a.npy", white=white)


@pytest.mark.parametrize("white", [1e-300, 1e300, 1e-42])
def test_white_that_float32_cannot_divide_by_is_refused(tmp_path, white):
    np.save(tmp_path / "a.npy", numbers())
    with refused():
        load_volume(tmp_path / "a.npy", white=white)


def test_a_range_wider_than_float32_is_refused():
    data = np.where(numbers() > 100, np.float32(3e38), np.float32(-3e38))
    with refused():
        normalised(data, np.eye(4), "test")


@pytest.mark.parametrize(
    "name", ["missing.nii", "a.mat", "a.nii", "a.nii.gz", "a.npy", "a.npz", "a.tif", "empty", "mixed", "bad.npy"]
)
def test_messages_begin_with_the_option(tmp_path, name):
    for file in ("a.mat", "a.nii", "a.nii.gz", "a.npy", "a.npz", "a.tif"):
        (tmp_path / file).write_bytes(b"nothing")
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    np.save(tmp_path / "mixed" / "1.npy", numbers((5, 6)))
    (tmp_path / "mixed" / "1.tif").write_bytes(b"")
    np.save(tmp_path / "bad.npy", numbers() * np.nan)
    with refused("thick"):
        load_volume(tmp_path / name, argument="thick")


def test_endings_in_capitals_are_the_same(tmp_path):
    for name in ("A.NII", "A.NII.GZ", "A.NPY", "A.TIF"):
        save_volume(tmp_path / name, numbers(), np.eye(4))
        volume = load_volume(tmp_path / name)
        np.testing.assert_allclose(volume.data * volume.scale, numbers(), rtol=1e-6)
    assert (tmp_path / "A.NII.GZ").read_bytes()[:2] == b"\x1f\x8b"


def test_saving_elsewhere_or_as_something_else_is_refused(tmp_path):
    for path in (tmp_path / "a.mgz", tmp_path / "a", tmp_path / "a.npz", tmp_path / "missing" / "a.nii"):
        with refused("out"):
            save_volume(path, numbers(), np.eye(4))
    with refused("save"):
        save_volume(tmp_path / "a.mgz", numbers(), np.eye(4), argument="save")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.npy", "a.tif"])
def test_a_save_that_fails_leaves_nothing_behind(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"old")

    def fail(*_):
        raise OSError("disc full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disc full"):
        save_volume(tmp_path / name, numbers(), np.eye(4))
    assert (tmp_path / name).read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_hidden_files_in_a_folder_are_no_slices(tmp_path):
    for i in range(8):
        np.save(tmp_path / f"{i}.npy", numbers()[:, :, i])
    (tmp_path / ".part17-3.npy").write_bytes(b"half")
    (tmp_path / "._3.tif").write_bytes(b"half")
    volume = load_volume(tmp_path)
    np.testing.assert_allclose(volume.data * volume.scale, numbers(), rtol=1e-6)


def test_a_dicom_series_comes_with_its_place(tmp_path, monkeypatch):
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    (tmp_path / "1.dcm").write_bytes(b"")
    series = Series(numbers(), affine, 2.5, [], [])
    monkeypatch.setattr("engine.io.volumes.reading.is_series", lambda folder, argument: folder == tmp_path)
    monkeypatch.setattr("engine.io.volumes.dicom.read_series", lambda folder, argument, frame: series)
    volume = load_volume(tmp_path)
    np.testing.assert_allclose(volume.in_file_units(volume.data), numbers()[::-1, ::-1], rtol=1e-6)
    assert volume.data.flags.c_contiguous
    np.testing.assert_array_equal(np.diag(volume.affine), [1, 2, 3, 1])
    assert volume.thickness == Thickness(2.5, "DICOM", 2)
    data, back = volume.orientation.file_of(volume.in_file_units(volume.data), volume.affine)
    np.testing.assert_allclose(data, numbers(), rtol=1e-6)
    np.testing.assert_array_equal(back, affine)
    np.save(tmp_path / "1.npy", numbers((5, 6)))
    with refused() as caught:
        load_volume(tmp_path)
    assert ".npy and DICOM" in str(caught.value)


def test_peak_memory_is_a_small_multiple_of_the_volume(tmp_path):
    data = np.random.default_rng(0).normal(1, 1, (100, 100, 100)).astype(np.float32)
    for name in ("a.nii", "a.nii.gz", "a.npy", "a.tif"):
        save_volume(tmp_path / name, data, np.diag([-1.0, 1, 1, 1]))
        tracemalloc.start()
        load_volume(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2.6 * data.nbytes + 2**24, name


def test_white_is_a_high_percentile_of_the_tissue():
    data = np.zeros((10, 10, 10), dtype=np.float32)
    data[:5] = np.linspace(1, 200, 500, dtype=np.float32).reshape(5, 10, 10)
    data[0, 0, 0] = 1e6  # a single vessel must not dim the head
    volume = normalised(data, np.eye(4), "test")
    assert volume.scale == pytest.approx(np.percentile(data[data > 0], 99.5))
    assert 150 < volume.scale < 250
    np.testing.assert_allclose(volume.data * np.float32(volume.scale), data, rtol=1e-5)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float64, np.int16, np.uint8, ">f4"])
def test_npy(tmp_path, dtype, order):
    data = (numbers((4, 5, 6)) % 250 + 1).astype(dtype, order=order)
    np.save(tmp_path / "a.npy", data)
    volume = load_volume(tmp_path / "a.npy")
    np.testing.assert_allclose(volume.data * volume.scale, data.astype(np.float32), rtol=1e-6)
    assert volume.data.dtype == np.float32
    assert volume.data.flags.c_contiguous
    np.testing.assert_array_equal(volume.affine, np.eye(4))


@pytest.mark.parametrize("stack_axis", [0, 1, 2])
@pytest.mark.parametrize("name", ["{:03d}.npy", "slice_{}.npy"])
def test_folder_of_slices_is_stacked_by_number(tmp_path, stack_axis, name):
    data = numbers((12, 13, 14))
    for i in range(data.shape[stack_axis]):
        np.save(tmp_path / name.format(i), np.take(data, i, axis=stack_axis))
    (tmp_path / "notes.txt").write_text("not a slice")
    volume = load_volume(tmp_path, stack_axis=stack_axis)
    np.testing.assert_allclose(volume.data * volume.scale, data, rtol=1e-6)


def test_nan_infinity_and_overflow_are_counted(tmp_path):
    for bad in (np.nan, np.inf, 1e300):
        data = numbers().astype(np.float64)
        data[1, 2, 3] = data[0, 0, 0] = bad
        np.save(tmp_path / "a.npy", data)
        with refused() as caught:
            load_volume(tmp_path / "a.npy")
        # NaN at the border is background.
        assert f"{1 if np.isnan(bad) else 2} NaN or infinite" in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        numbers()[0],
        numbers()[None],
        numbers()[:, :0],
        np.float32(3),
        numbers() * 1j,
        numbers() > 5,
        np.full(SHAPE, "a"),
        np.full(SHAPE, 7.0),
        np.zeros(SHAPE),
        -numbers(),
    ],
    ids=["rank 2", "rank 4", "empty", "scalar", "complex", "bool", "text", "constant", "zero", "negative"],
)
def test_arrays_that_are_no_volumes_are_refused(tmp_path, data):
    np.save(tmp_path / "a.npy", data)
    with refused():
        load_volume(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", [(6, 7), (6,)])
def test_nifti_of_another_rank_is_refused(tmp_path, shape):
    nib.save(nib.Nifti1Image(numbers(shape), np.eye(4)), tmp_path / "a.nii.gz")
    with refused() as caught:
        load_volume(tmp_path / "a.nii.gz")
    assert f"got shape {shape}" in str(caught.value)


def test_complex_nifti_is_refused(tmp_path):
    nib.save(nib.Nifti1Image((numbers() * 1j).astype(np.complex64), np.eye(4)), tmp_path / "a.nii.gz")
    with refused():
        load_volume(tmp_path / "a.nii.gz")


def test_colour_nifti_is_refused(tmp_path):
    colour = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, np.eye(4)), tmp_path / "a.nii.gz")
    with refused():
        load_volume(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("keep", [0, 1, 40, 200, 0.3, 0.9])
def test_truncated_nifti_is_refused(tmp_path, suffix, keep):
    path = tmp_path / f"a{suffix}"
    # Noise does not compress: something of the voxels is left at every length.
    save_nifti(path, np.random.default_rng(0).random((16, 16, 16), dtype=np.float32) + 1, np.eye(4))
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with refused():
        load_volume(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.npy"])
def test_noise_under_a_known_name_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(5000))
    with refused():
        load_volume(tmp_path / name)


def test_pickles_are_not_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}, print], dtype=object), allow_pickle=True)
    with refused():
        load_volume(tmp_path / "a.npy")


def test_truncated_npy_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", numbers())
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[:-10])
    with refused():
        load_volume(tmp_path / "a.npy")


def header_of(shape):
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.float32)
    header.set_sform(np.eye(4), code=1)
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    return header.binaryblock + bytes(4)


def write_claim(path, shape):
    """A tiny file whose header claims `shape`."""
    if path.suffix == ".npy":
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            file.write(bytes(100))
    else:
        content = header_of(shape) + bytes(100)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.npy"])
@pytest.mark.parametrize("shape", [(1000, 1000, 1000), (30000, 30000, 30000)])
def test_a_header_that_claims_too_much_allocates_nothing(tmp_path, name, shape):
    write_claim(tmp_path / name, shape)
    # In a process of its own, whose peak is the measure: the libraries take about 100 MiB, the claim 4 GB or more.
    script = f"""
        import resource
        from engine.cli import peak_memory_mb
        from engine.errors import InputError
        from engine.io.volumes.volume import load_volume
        resource.setrlimit(resource.RLIMIT_AS, ({2**31}, {2**31}))
        try:
            load_volume({str(tmp_path / name)!r})
        except InputError as error:
            print(peak_memory_mb(), error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    peak_mb, message = done.stdout.split(maxsplit=1)
    assert float(peak_mb) < 600
    assert message.startswith("volume: expected ")
    assert "MemoryError" not in message


def test_a_zip_bomb_is_refused_before_it_is_opened(tmp_path):
    # Below what deflate could hold, above what any scanner makes.
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(header_of((1025, 1024, 1024)) + np.random.default_rng(0).bytes(5_000_000), 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with refused() as caught:
        load_volume(path)
    assert "at most" in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB


def test_volumes_that_compress_well_are_still_read(tmp_path):
    data = np.zeros((128, 128, 128), dtype=np.float32)
    data[3, 4, 5] = 1
    save_nifti(tmp_path / "a.nii.gz", data, np.eye(4))
    assert (tmp_path / "a.nii.gz").stat().st_size < data.nbytes / 200
    np.testing.assert_array_equal(load_volume(tmp_path / "a.nii.gz").data, data)


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.diag([1, 1, 0, 1.0]), np.full((4, 4), np.nan)])
def test_affines_that_place_voxels_nowhere_are_refused(affine):
    with refused():
        normalised(numbers(), affine, "test")


@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_nifti_with_a_broken_affine_is_refused(tmp_path, bad):
    header = nib.Nifti1Header.from_fileobj(BytesIO(header_of(SHAPE)))
    for row in ("srow_x", "srow_y", "srow_z"):
        header[row] = bad
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4) + numbers().tobytes())
    with pytest.raises(InputError) as caught:
        load_volume(tmp_path / "a.nii")
    assert "\n" not in str(caught.value)


def test_nothing_there_and_unknown_kinds_are_refused(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"x")
    for name in ("missing.nii", "missing", "a.mat"):
        with refused():
            load_volume(tmp_path / name)


def test_folders_that_are_no_stack_are_refused(tmp_path):
    with refused():
        load_volume(tmp_path)
    np.save(tmp_path / "1.npy", numbers((5, 6)))
    np.save(tmp_path / "2.npy", numbers((5, 7)))
    with refused():
        load_volume(tmp_path)
    np.save(tmp_path / "2.npy", numbers((2, 5, 6)))
    with refused():
        load_volume(tmp_path)


@pytest.mark.parametrize("stack_axis", [3, -1])
def test_stack_axes_that_do_not_exist_are_refused(tmp_path, stack_axis):
    np.save(tmp_path / "1.npy", numbers((5, 6)))
    with refused("stack_axis"):
        load_volume(tmp_path, stack_axis=stack_axis)


def test_saved_file_follows_the_umask_and_leaves_nothing_else(tmp_path):
    save_nifti(tmp_path / "a.nii.gz", numbers(), np.eye(4))
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "a.nii.gz").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "plain"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.nii"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disc full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disc full"):
        save_nifti(path, numbers(), np.eye(4))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii"]
