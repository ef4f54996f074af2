"""Sinograms from files and back: units, axes, places in the world, and which files are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import zipfile

import h5py
import numpy as np
import pytest
import tifffile

from engine.io.measurements.geometry import save_geometry
from engine.io.measurements.sinogram import Sinogram, load_sinogram, save_sinogram
from engine.operators import Radon
from engine.volume import Plane
from kernels import FanGeometry, ParallelGeometry
from tests.refusals import one_sentence

N_SLICES, N_VIEWS, N_BINS = 3, 5, 14
FIELDS = {
    "beam": "parallel",
    "angles_deg": {"first": 0, "last_excluded": 180, "count": N_VIEWS},
    "bin_spacing_mm": 0.5,
    "pixel_mm": 0.5,
    "rows": 10,
    "columns": 8,
    "slice_spacing_mm": 2.0,
}
NAMES = ["a.npy", "a.npz", "a.h5", "a.hdf5", "a.tif", "a.tiff"]


def numbers(shape=(N_SLICES, N_VIEWS, N_BINS), dtype=np.float32):
    """All different, so that a wrong order shows."""
    return np.arange(1, np.prod(shape) + 1, dtype=dtype).reshape(shape)


def write(path, data):
    if path.suffix == ".npy":
        np.save(path, data)
    elif path.suffix == ".npz":
        np.savez_compressed(path, values=data)
    elif path.suffix in (".h5", ".hdf5"):
        with h5py.File(path, "w") as file:
            file.create_dataset("sinogram", data=data)
    else:
        tifffile.imwrite(path, data, photometric="minisblack", metadata=None)
    return path


@pytest.fixture
def load(tmp_path):
    def loaded(path, fields=None, **options):
        geometry = tmp_path / "geometry.json"
        geometry.write_text(json.dumps({**FIELDS, **(fields or {})}))
        return load_sinogram(path, geometry, **options)

    return loaded


def refused(argument="sinogram"):
    return one_sentence(argument)


@pytest.mark.parametrize("name", NAMES)
def test_values_are_divided_by_the_size_of_a_pixel(tmp_path, load, name):
    sinogram = load(write(tmp_path / name, numbers()))
    np.testing.assert_array_equal(sinogram.data, numbers() / 0.5)
    assert sinogram.data.dtype == np.float32
    assert sinogram.data.flags.c_contiguous
    assert isinstance(sinogram.geometry, ParallelGeometry)
    assert (sinogram.slice_shape, str(sinogram.plane)) == ((10, 8), "axial")
    assert sinogram.volume_shape == (10, 8, N_SLICES)
    assert sinogram.source == str(tmp_path / name)
    np.testing.assert_allclose(sinogram.affine[:3, :3], np.diag([0.5, 0.5, 2.0]))
    # It is a measurement of the operator that it names.
    Radon(sinogram.geometry, sinogram.slice_shape).check_data("measurement", sinogram.data)


@pytest.mark.parametrize("name", NAMES)
def test_an_array_of_two_axes_is_one_slice(tmp_path, load, name):
    sinogram = load(write(tmp_path / name, numbers((N_VIEWS, N_BINS))))
    np.testing.assert_array_equal(sinogram.data, numbers((1, N_VIEWS, N_BINS)) / 0.5)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ">f4", np.uint16, np.int32, ">i2"])
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5", "a.tif"])
def test_numbers_of_every_kind_are_read(tmp_path, load, name, dtype):
    np.testing.assert_array_equal(load(write(tmp_path / name, numbers(dtype=dtype))).data, numbers() / 0.5)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_columns_first_are_read(tmp_path, load, name):
    np.testing.assert_array_equal(load(write(tmp_path / name, np.asfortranarray(numbers()))).data, numbers() / 0.5)


@pytest.mark.parametrize(
    ("orientation", "order"), [("IRA", np.s_[::-1]), ("SLA", np.s_[:, :, ::-1]), ("SLP", np.s_[:])]
)
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5", "a.tif"])
def test_slices_and_bins_that_count_otherwise_are_reversed(tmp_path, load, name, orientation, order):
    sinogram = load(write(tmp_path / name, numbers()), {"orientation": orientation})
    np.testing.assert_array_equal(sinogram.data, numbers()[order] / 0.5)
    assert sinogram.data.flags.c_contiguous


def example(geometry, shape, plane="axial", pixel=0.7):
    """A simulated scan: numbers of every size."""
    generator = np.random.default_rng(0)
    data = generator.standard_normal((N_SLICES, geometry.n_views, geometry.n_bins)) * 10.0 ** generator.integers(
        -30, 30
    )
    affine = np.diag([pixel, pixel, pixel, 1])
    affine[:3, 3] = 1 / 3, -5, 7e3
    return Sinogram(data.astype(np.float32), geometry, shape, Plane.parse(plane), affine, "here")


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("pixel", [1.0, 0.7, 1 / 3])
@pytest.mark.parametrize("name", ["a.npy", "a.h5", "a.hdf5", "a.tif", "a.tiff"])
@pytest.mark.parametrize(
    ("geometry", "shape"),
    [
        (ParallelGeometry.from_views(10, 6), (10, 10)),
        (ParallelGeometry.from_views(10, 6), (7, 10)),
        (FanGeometry((9, 12), [0.5, 2.0], 30.0, 15.0, 4, curved=True), (9, 12)),
    ],
)
def test_a_saved_sinogram_comes_back(tmp_path, geometry, shape, name, pixel, plane):
    before = example(geometry, shape, plane, pixel)
    save_sinogram(tmp_path / name, before)
    save_geometry(tmp_path / "a.json", before.geometry, before.slice_shape, before.plane, before.affine)
    after = load_sinogram(tmp_path / name, tmp_path / "a.json")
    np.testing.assert_array_equal(after.data, before.data)
    np.testing.assert_array_equal(after.affine, before.affine)
    assert (after.slice_shape, after.plane) == (before.slice_shape, before.plane)
    x = np.random.default_rng(1).random((1, *shape), np.float32)
    projections = [Radon(s.geometry, s.slice_shape).apply(x) for s in (before, after)]
    np.testing.assert_array_equal(*projections)
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", name}


def test_a_simulated_scan_of_a_real_volume_is_reconstructed(tmp_path):
    # From a volume to files in mm, and back to its values.
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in (32, 24, 3)], indexing="ij")
    volume = (np.hypot(axes[0] / 0.8, axes[1] / 0.7) < 1).astype(np.float32)
    plane, geometry = Plane.parse("axial"), ParallelGeometry.from_views(32, 60)
    data = Radon(geometry, (32, 24)).apply(plane.slices_of(volume))
    before = Sinogram(data, geometry, (32, 24), plane, np.diag([0.8, 0.8, 3.0, 1.0]), "here")
    save_sinogram(tmp_path / "a.h5", before)
    save_geometry(tmp_path / "a.json", geometry, (32, 24), plane, before.affine)
    with h5py.File(tmp_path / "a.h5") as file:
        # The longest line runs through 0.8 of the 31 pixels from first to last, of 0.8 mm each.
        assert file["sinogram"][()].max() == pytest.approx(0.8 * 31 * 0.8, rel=0.05)
    after = load_sinogram(tmp_path / "a.h5", tmp_path / "a.json")
    shown = after.plane.volume_of(Radon(after.geometry, after.slice_shape).classical(after.data))
    assert shown.shape == after.volume_shape == volume.shape
    assert shown[volume > 0].mean() == pytest.approx(1, abs=0.05)
    assert shown[volume == 0].mean() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("name", ["a.npz", "a.nii", "a"])
def test_other_kinds_of_files_are_not_saved(tmp_path, name):
    with refused():
        save_sinogram(tmp_path / name, example(ParallelGeometry.from_views(10, 6), (10, 10)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.npy", "a.h5", "a.tif"])
def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"old")

    def fail(*_):
        raise OSError("disc full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disc full"):
        save_sinogram(tmp_path / name, example(ParallelGeometry.from_views(10, 6), (10, 10)))
    assert (tmp_path / name).read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5", "a.tif"])
def test_views_and_bins_that_differ_name_the_axis(tmp_path, load, name):
    with refused("geometry") as caught:
        load(write(tmp_path / name, numbers((N_SLICES, N_VIEWS + 1, N_BINS))))
    assert "6 angles in angles_deg as along the sinogram's last axis but one (views), got 5" in str(caught.value)
    with refused("geometry") as caught:
        load(write(tmp_path / name, numbers((N_SLICES, N_BINS, N_VIEWS))))
    assert "swap" in str(caught.value)
    with refused("geometry") as caught:
        load(write(tmp_path / name, numbers()), {"bins": N_BINS + 1})
    assert "last axis (bins)" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (numbers()[0, 0], "shape"),
        (numbers()[None], "shape"),
        (numbers()[:, :0], "shape"),
        (numbers() * 1j, "complex"),
        (numbers() > 5, "bool"),
        (np.full((N_SLICES, N_VIEWS, N_BINS), 7.0), "vary"),
        (np.where(numbers() < 3, np.nan, numbers()), "2 NaN"),
        (np.where(numbers() < 3, np.inf, numbers()), "2 NaN or infinite"),
        (np.where(numbers() < 3, 1e300, numbers(dtype=np.float64)), "2 NaN or infinite"),
    ],
    ids=["rank 1", "rank 4", "empty", "complex", "bool", "constant", "nan", "inf", "overflow"],
)
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5"])
def test_arrays_that_are_no_sinograms_are_refused(tmp_path, load, name, data, named):
    with refused() as caught:
        load(write(tmp_path / name, data))
    if not (name == "a.h5" and data.ndim not in (2, 3)):  # those are not looked at
        assert named in str(caught.value) or "real" in str(caught.value)


def test_the_argument_is_named_as_asked_for(tmp_path, load):
    with refused("measurement"):
        load(write(tmp_path / "a.npy", numbers() * np.nan), argument="measurement")


def test_nothing_there_and_unknown_kinds_are_refused(tmp_path, load):
    (tmp_path / "a.mat").write_bytes(b"x")
    (tmp_path / "folder.npy").mkdir()
    for name in ("missing.npy", "missing", "a.mat", "folder.npy"):
        with refused():
            load(tmp_path / name)
    with refused("geometry"):
        load_sinogram(write(tmp_path / "a.npy", numbers()), tmp_path / "missing.json")


@pytest.mark.parametrize("name", ["a.npz", "a.h5"])
def test_one_of_several_arrays_is_named(tmp_path, load, name):
    path, other = tmp_path / name, numbers() + 7

    def put(**arrays):
        if path.suffix == ".npz":
            np.savez(path, **arrays)
        else:
            with h5py.File(path, "w") as file:
                for key, value in arrays.items():
                    file[key] = value

    put(scan=numbers(), dark=other)
    with refused() as caught:
        load(path)
    assert "(dark, scan)" in str(caught.value) or "(scan, dark)" in str(caught.value)
    np.testing.assert_array_equal(load(path, dataset="dark").data, other / 0.5)
    with refused():
        load(path, dataset="flat")
    put(sinogram=numbers(), dark=other)
    np.testing.assert_array_equal(load(path).data, numbers() / 0.5)


@pytest.mark.parametrize("name", ["a.npy", "a.tif"])
def test_files_of_one_array_have_no_names(tmp_path, load, name):
    with refused():
        load(write(tmp_path / name, numbers()), dataset="sinogram")


def test_groups_are_looked_into(tmp_path, load):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["exchange/data"] = numbers()
        file["exchange/theta"] = numbers((N_VIEWS,))
    np.testing.assert_array_equal(load(tmp_path / "a.h5").data, numbers() / 0.5)
    np.testing.assert_array_equal(load(tmp_path / "a.h5", dataset="/exchange/data").data, numbers() / 0.5)
    for name in ("exchange", "exchange/data/deeper", "exchange/none", "", "/"):
        with refused():
            load(tmp_path / "a.h5", dataset=name)


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (2, 3, 5)},
        {"chunks": (1, 5, 14), "compression": "gzip"},
        {"chunks": (2, 2, 14), "compression": "gzip", "shuffle": True, "fletcher32": True},
        {"chunks": (3, 5, 14), "maxshape": (None, 5, 14)},
        {"compression": "lzf"},
    ],
    ids=str,
)
def test_chunks_and_compression_are_read(tmp_path, load, options):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("sinogram", data=numbers(), **options)
    np.testing.assert_array_equal(load(tmp_path / "a.h5").data, numbers() / 0.5)


def test_unfinished_datasets_are_refused(tmp_path, load):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("sinogram", numbers().shape, np.float32, chunks=(1, 5, 14))[0] = numbers()[0]
    with refused() as caught:
        load(tmp_path / "a.h5")
    assert "3 chunks" in str(caught.value)


@pytest.mark.parametrize("kind", ["external link", "soft link", "virtual", "external"])
@pytest.mark.parametrize("name", ["sinogram", "other"])
def test_hdf5_does_not_lead_elsewhere(tmp_path, load, kind, name):
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["sinogram"] = numbers()
    (tmp_path / "raw").write_bytes(numbers().tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if kind == "external link":
            file[name] = h5py.ExternalLink("b.h5", "sinogram")
        elif kind == "soft link":
            file[name] = h5py.SoftLink("/there")
        elif kind == "virtual":
            layout = h5py.VirtualLayout(numbers().shape, np.float32)
            layout[:] = h5py.VirtualSource(str(tmp_path / "b.h5"), "sinogram", numbers().shape)
            file.create_virtual_dataset(name, layout)
        else:
            external = [(str(tmp_path / "raw"), 0, numbers().nbytes)]
            file.create_dataset(name, numbers().shape, np.float32, external=external)
    with refused():
        load(tmp_path / "a.h5")
    with refused():
        load(tmp_path / "a.h5", dataset=name)


@pytest.mark.parametrize("options", [{"compression": "zlib"}, {"tile": (16, 16)}], ids=str)
def test_tiffs_that_are_compressed_or_tiled_are_read(tmp_path, load, options):
    tifffile.imwrite(tmp_path / "a.tif", numbers(), photometric="minisblack", metadata=None, **options)
    np.testing.assert_array_equal(load(tmp_path / "a.tif").data, numbers() / 0.5)


def test_tiffs_of_other_pages_are_refused(tmp_path, load):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(numbers()[0], photometric="minisblack")
        tiff.write(numbers()[0, :, 1:], photometric="minisblack")
    with refused():
        load(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "a.tif", numbers((N_VIEWS, N_BINS, 3), np.uint8), photometric="rgb")
    with refused():
        load(tmp_path / "a.tif")


def test_imagej_s_stacks_are_read(tmp_path, load):
    tifffile.imwrite(tmp_path / "a.tif", numbers(), imagej=True)
    np.testing.assert_array_equal(load(tmp_path / "a.tif").data, numbers() / 0.5)


def npy_header(shape):
    import io

    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def write_claim(path, shape):
    """A small file whose header claims `shape`, and which where it can inflates beyond it."""
    if path.suffix == ".npy":
        path.write_bytes(npy_header(shape) + bytes(100))
    elif path.suffix == ".npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("sinogram.npy", npy_header(shape) + bytes(10_000_000))
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("sinogram", shape, np.float32, chunks=(1, 1000, 1000), compression="gzip")
    else:
        tifffile.imwrite(path, np.zeros((1000, 1000), np.float32), photometric="minisblack", metadata=None)
        with tifffile.TiffFile(path, mode="r+") as file:
            file.pages[0].tags["ImageLength"].overwrite(2**30)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5", "a.tif"])
def test_a_header_that_claims_too_much_allocates_nothing(tmp_path, name):
    write_claim(tmp_path / name, (2000, 1000, 1000))
    (tmp_path / "a.json").write_text(json.dumps({**FIELDS, "angles_deg": [float(i) for i in range(1000)]}))
    # In a process of its own, whose peak is the measure: the libraries take about 150 MiB, the claim 4 GB or more.
    script = f"""
        import resource
        from engine.cli import peak_memory_mb
        from engine.errors import InputError
        from engine.io.measurements.sinogram import load_sinogram
        resource.setrlimit(resource.RLIMIT_AS, ({2**31}, {2**31}))
        try:
            load_sinogram({str(tmp_path / name)!r}, {str(tmp_path / "a.json")!r})
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
    assert message.startswith("sinogram: expected ")


def test_images_far_beyond_the_data_are_refused(tmp_path, load):
    path = write(tmp_path / "a.npy", numbers((8, N_VIEWS, N_BINS)))
    with refused() as caught:
        load(path, {"rows": 16000, "columns": 16000})
    assert "voxels" in str(caught.value)
