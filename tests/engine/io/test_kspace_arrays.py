"""K-space from arrays: the formats, what their axes count, what was sampled, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
from itertools import permutations

import h5py
import numpy as np
import pytest
import scipy.io

from engine.io.measurements.fastmri import save_fastmri
from engine.io.measurements.kspace import load_kspace
from engine.io.measurements.kspace_options import KSpaceReading
from engine.job.configuration import parse
from engine.job.measurement import open_measurement
from engine.job.parser import build_parser
from engine.problems.coil_maps import load_maps
from tests.refusals import one_sentence

#: Slices, coils, rows, columns.
SHAPE = (3, 2, 8, 6)
AXES = ("slices", "coils", "rows", "columns")


def centred(images, axes=(-2, -1)):
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(images, axes=axes), norm="ortho", axes=axes), axes=axes)


def images(shape=SHAPE):
    rng = np.random.default_rng(0)
    return (rng.random(shape) + 0.5) * np.exp(1j * rng.random(shape))


def write_cfl(path, array):
    array = np.asarray(array, np.complex64)
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{' '.join(map(str, array.shape))} \n# Command\nphantom\n")
    path.with_suffix(".cfl").write_bytes(array.tobytes(order="F"))
    return path


def of_bart(array):
    """(slices, coils, rows, columns) as BART has them: slices are its axis 13."""
    return array.transpose(2, 3, 1, 0).reshape(8, 6, 1, 2, *[1] * 9, 3, 1, 1)


def write(path, array, dtype=np.complex64):
    array = np.asarray(array, dtype)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, kspace=array, mask=np.ones(3))
    elif path.suffix == ".mat":
        scipy.io.savemat(path, {"kspace": array, "mask": np.ones(3), "how": {"te": 1}}, do_compression=True)
    elif path.suffix == ".cfl":
        write_cfl(path, array)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["raw/samples"] = array
    return path


def write_7_3(path, array, **how):
    """As MATLAB saves it: HDF5 behind its own 512 bytes, axes in its order, complex numbers as pairs."""
    with h5py.File(path, "w", userblock_size=512) as file:
        pairs = np.empty(array.T.shape, [("real", "<f8"), ("imag", "<f8")])
        pairs["real"], pairs["imag"] = array.T.real, array.T.imag
        file.create_dataset("kspace", data=pairs, **how)
        file["mask"] = np.ones((3, 1))
        file.create_dataset("#refs#/a", data=np.zeros((2, 2)))
    content = bytearray(path.read_bytes())
    content[:128] = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    path.write_bytes(content)
    return path


def check(loaded, expected=None):
    found = np.fft.ifft2(np.fft.ifftshift(loaded.data, axes=(-2, -1)))
    np.testing.assert_allclose(found, images() if expected is None else expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["k.npy", "k.npz", "k.mat", "k.cfl", "k.h5"])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_arrays_with_stated_axes_are_read(tmp_path, name, dtype):
    for order in ((0, 1, 2, 3), (2, 3, 1, 0)):
        path = write(tmp_path / name, centred(images()).transpose(order), dtype)
        dataset = "raw/samples" if name == "k.h5" else None
        how = KSpaceReading(dataset=dataset, axes=tuple(AXES[i] for i in order))
        loaded = load_kspace(path, orientation="SRA", how=how)
        check(loaded)
        assert loaded.mask.all()
        np.testing.assert_array_equal(loaded.voxel_mm, 1)


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_every_order_of_axes_is_the_same_scan(tmp_path, order):
    path = write(tmp_path / "k.npy", centred(images()).transpose(order))
    check(load_kspace(path, orientation="SRA", how=KSpaceReading(axes=tuple(AXES[i] for i in order))))


@pytest.mark.parametrize("how", [{}, {"chunks": (2, 2, 2, 1), "compression": "gzip"}])
def test_matlab_7_3(tmp_path, how):
    path = write_7_3(tmp_path / "k.mat", centred(images()).transpose(2, 3, 1, 0), **how)
    reading = KSpaceReading(axes=("rows", "columns", "coils", "slices"))
    check(load_kspace(path, orientation="SRA", how=reading))


def test_matlab_drops_axes_of_length_one_at_the_end(tmp_path):
    samples = centred(images())[0].transpose(1, 2, 0)
    reading = KSpaceReading(axes=("rows", "columns", "coils", "slices"))
    for written in (write(tmp_path / "k.mat", samples), write_7_3(tmp_path / "k.mat", samples)):
        check(load_kspace(written, orientation="SRA", how=reading), images()[:1])


def test_one_slice_or_one_coil_needs_no_axis(tmp_path):
    samples = centred(images())
    for axes, part, expected in (
        ("rows,columns", samples[1, 1], images()[1:2, 1]),
        ("coils,rows,columns", samples[1], images()[1:2]),
        ("slices,rows,columns", samples[:, 1], images()[:, 1]),
    ):
        loaded = load_kspace(
            write(tmp_path / "k.npy", part), orientation="SRA", how=KSpaceReading(axes=tuple(axes.split(",")))
        )
        check(loaded, expected)


def test_bart_has_an_order_of_its_own(tmp_path):
    for suffix in (".cfl", ".hdr"):
        write_cfl(tmp_path / "k.cfl", of_bart(centred(images())))
        check(load_kspace(tmp_path / f"k{suffix}", orientation="SRA"))
    slab = centred(images(), axes=(0, 2, 3)).transpose(2, 3, 0, 1)
    check(load_kspace(write_cfl(tmp_path / "k.cfl", slab), orientation="SRA"))
    reading = KSpaceReading(axes=("partitions", "coils", "rows", "columns"))
    slab = slab.transpose(2, 3, 0, 1)
    check(load_kspace(write(tmp_path / "k.npy", slab), orientation="SRA", how=reading))


@pytest.mark.skipif(shutil.which("bart") is None, reason="needs the BART toolbox, as the oracle of its files")
def test_files_that_bart_writes(tmp_path):
    """Its image, by its own transform, is the one that is seen here, but for a factor."""

    def bart(*words):
        subprocess.run(["bart", *words], cwd=tmp_path, check=True, capture_output=True)

    bart("phantom", "-x", "32", "-s", "3", "-k", "k")
    bart("fft", "-i", "-u", "3", "k", "image")
    loaded = load_kspace(tmp_path / "k.cfl", orientation="SRA")
    expected = np.fromfile(tmp_path / "image.cfl", np.complex64).reshape(3, 32, 32).transpose(0, 2, 1)
    found = np.fft.ifft2(np.fft.ifftshift(loaded.data, axes=(-2, -1)))[0]
    factor = np.vdot(found, expected) / np.vdot(found, found)
    assert abs(factor.imag) < 1e-4 * factor.real
    assert abs(factor * found - expected).max() < 1e-4 * abs(expected).max()


def test_sensitivities_of_bart(tmp_path):
    kspace = load_kspace(write_cfl(tmp_path / "k.cfl", of_bart(centred(images()))), orientation="SRA")
    write_cfl(tmp_path / "maps.cfl", of_bart(images()))
    np.testing.assert_allclose(load_maps(tmp_path / "maps.cfl", kspace), images().astype(np.complex64))


def test_what_was_sampled_is_found_or_stated(tmp_path):
    mask = np.array([1, 0, 1, 1, 0, 1], bool)
    reading = KSpaceReading(axes=AXES)
    path = write(tmp_path / "k.npy", centred(images()) * mask)
    loaded = load_kspace(path, orientation="SRA", how=reading)
    np.testing.assert_array_equal(loaded.mask, np.tile(mask, (8, 1)))
    chosen = np.array([1, 1, 0, 1, 0, 1])
    np.save(tmp_path / "mask.npy", chosen)
    loaded = load_kspace(path, orientation="SRA", how=reading, mask=tmp_path / "mask.npy")
    np.testing.assert_array_equal(loaded.mask, np.tile(mask & (chosen == 1), (8, 1)))


def test_partitions_that_are_not_sampled_alike_are_refused(tmp_path):
    samples = centred(images(), axes=(0, 2, 3))
    samples[2, :, :, ::2] = 0
    path = write(tmp_path / "k.npy", samples)
    with one_sentence("kspace", "in partition 2"):
        load_kspace(path, how=KSpaceReading(axes=("partitions", "coils", "rows", "columns")))


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ("", ["does not say", "--axes slices,coils,rows,columns"]),
        ("slices,coils,rows", ["rows and columns"]),
        ("slices,coils,rows,colums", ["rows and columns"]),
        ("slices,coils,rows,rows", ["rows and columns"]),
        ("slices,partitions,rows,columns", ["slices or partitions"]),
        ("coils,rows,columns", ["for each of 4 axes", "(3, 2, 8, 6)"]),
    ],
)
def test_axes_that_do_not_fit_are_refused(tmp_path, axes, words):
    how = KSpaceReading(axes=tuple(axes.split(",")) if axes else ())
    for name in ("k.npy", "k.mat"):
        with one_sentence("axes", *words):
            load_kspace(write(tmp_path / name, centred(images())), how=how)


def test_what_an_array_of_three_axes_may_be_is_asked(tmp_path):
    with one_sentence("axes", "--axes slices,rows,columns or --axes coils,rows,columns"):
        load_kspace(write(tmp_path / "k.npy", np.ones((8, 7, 6))))


def test_axes_of_bart_that_are_stated_need_not_name_all_sixteen(tmp_path):
    samples = centred(images()).transpose(2, 3, 0, 1)
    path = write_cfl(tmp_path / "k.cfl", samples.reshape(*samples.shape, *[1] * 12))
    check(load_kspace(path, orientation="SRA", how=KSpaceReading(axes=("rows", "columns", "slices", "coils"))))


def test_real_numbers_are_refused(tmp_path):
    for name in ("k.npz", "k.mat", "k.h5", "k.npy"):
        with one_sentence("kspace", "complex"):
            load_kspace(write(tmp_path / name, np.ones(SHAPE), np.float32), how=KSpaceReading(axes=AXES))


def test_names_of_arrays(tmp_path):
    path = tmp_path / "k.mat"
    scipy.io.savemat(path, {"one": centred(images()), "other": np.ones(3)})
    check(load_kspace(path, orientation="SRA", how=KSpaceReading("one", AXES)))
    with one_sentence("kspace", "one, other"):
        load_kspace(path, how=KSpaceReading(axes=AXES))
    with one_sentence("dataset", "a file of one array"):
        load_kspace(write(tmp_path / "k.npy", centred(images())), how=KSpaceReading("kspace", AXES))
    with one_sentence("kspace", "'nothing' among raw", "--axes"):
        load_kspace(write(tmp_path / "k.h5", centred(images())), how=KSpaceReading("nothing"))


def test_several_images_in_one_file_of_bart_are_refused(tmp_path):
    with one_sentence("kspace", "4 along axis 5", "bart slice 5 0"):
        load_kspace(write_cfl(tmp_path / "k.cfl", np.ones((8, 6, 1, 2, 1, 4))))
    with one_sentence("kspace", "2 partitions of 3 slabs"):
        load_kspace(write_cfl(tmp_path / "k.cfl", np.ones((8, 6, 2, 1, *[1] * 9, 3))))


@pytest.mark.parametrize(
    "header",
    [
        *["", "# Dimensions", "# Dimensions\n", "# Dimensions\n8 6 -1\n", "# Dimensions\n8 0\n"],
        *["# Dimensions\n8 6 2.5\n", "# Dimensions\n8 6 1 1\n", f"# Dimensions\n{'1 ' * 40}\n"],
        *["# Dimensions\n999999999 999999999\n", "\xff" * 9],
    ],
)
def test_headers_of_bart_that_do_not_fit_are_refused(tmp_path, header):
    path = write_cfl(tmp_path / "k.cfl", of_bart(centred(images())))
    path.with_suffix(".hdr").write_text(header)
    with one_sentence("kspace"):
        load_kspace(path)


def test_half_a_pair_is_refused(tmp_path):
    write_cfl(tmp_path / "k.cfl", of_bart(centred(images())))
    (tmp_path / "k.hdr").unlink()
    with one_sentence("kspace", "k.hdr", "beside each other"):
        load_kspace(tmp_path / "k.cfl")


@pytest.mark.parametrize("name", ["5.mat", "73.mat", "k.cfl", "k.npz"])
def test_files_that_end_early_are_refused(tmp_path, name):
    samples = centred(images()).transpose(2, 3, 1, 0)
    path = write_7_3(tmp_path / name, samples) if name == "73.mat" else write(tmp_path / name, samples)
    content = path.read_bytes()
    how = KSpaceReading(axes=("rows", "columns", "coils", "slices"))
    for tenth in range(10):
        path.write_bytes(content[: tenth * len(content) // 10])
        with one_sentence("kspace"):
            load_kspace(path, how=how)


def test_a_variable_that_claims_more_than_its_file_holds_is_refused(tmp_path):
    path = tmp_path / "k.mat"
    scipy.io.savemat(path, {"kspace": np.ones((3, 5, 7), np.complex128)})
    content = path.read_bytes()
    sides = np.array([3, 5, 7], "<i4").tobytes()
    assert content.count(sides) == 1
    path.write_bytes(content.replace(sides, np.array([2**15, 2**14, 7], "<i4").tobytes()))
    with one_sentence("kspace"):
        load_kspace(path, how=KSpaceReading(axes=("slices", "rows", "columns")))


@pytest.mark.parametrize(
    ("name", "converter"),
    [
        ("meas_MID1_gre.dat", "siemens_to_ismrmrd"),
        ("P12345.7", "ge_to_ismrmrd"),
        ("scan.raw", "philips_to_ismrmrd"),
        ("scan.LAB", "philips_to_ismrmrd"),
        ("fid", "bruker_to_ismrmrd"),
        ("2dseq", "bruker_to_ismrmrd"),
    ],
)
def test_raw_files_of_makers_are_named_with_their_converter(tmp_path, name, converter):
    (tmp_path / name).write_bytes(b"samples")
    with one_sentence("kspace", converter):
        load_kspace(tmp_path / name)
    if converter.startswith("bruker"):
        with one_sentence("kspace", converter, f"({name})"):
            load_kspace(tmp_path)


def test_options_of_the_command_line(tmp_path):
    save = write(tmp_path / "k.npy", centred(images()).transpose(2, 3, 0, 1))
    words = ["--task", "csmri", "--kspace", str(save), "--phase", "none", "--axes", "rows,columns,slices,coils"]
    write_cfl(tmp_path / "maps.cfl", of_bart(images()))
    found = open_measurement(parse(build_parser(), [*words, "--coil-maps", str(tmp_path / "maps.cfl")]))
    assert found.shape == (6, 8, 3)
    with one_sentence("axes", "no effect"):
        open_measurement(parse(build_parser(), ["--task", "csmri", "--axes", "rows,columns"]))


def test_a_scan_of_fastmri_is_the_same_by_its_axes(tmp_path):
    path = write(tmp_path / "k.npy", centred(images()))
    scan = load_kspace(path, how=KSpaceReading(axes=AXES))
    save_fastmri(tmp_path / "k.h5", scan)
    again = load_kspace(tmp_path / "k.h5")
    assert abs(again.data - scan.data).max() < 1e-6 * abs(scan.data).max()
    np.testing.assert_array_equal(again.affine, scan.affine)
