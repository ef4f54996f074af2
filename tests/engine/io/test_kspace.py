"""K-space from files: conventions, orientations, masks, oversampling, ISMRMRD, and what is refused."""

from __future__ import annotations

import logging
import sys
from itertools import permutations, product

import h5py
import numpy as np
import pytest

from engine.io.measurements import kspace
from engine.io.measurements.fastmri import save_fastmri
from engine.io.measurements.kspace import KSpace, load_kspace
from engine.operators import MaskedFourier
from engine.volume import NAMED_PLANES, Plane
from tests.refusals import one_sentence

ORIENTATIONS = ["".join(letters) for axes in permutations(("RL", "AP", "SI")) for letters in product(*axes)]
SIZES = [(3, 8, 10), (3, 7, 10), (2, 8, 9), (4, 7, 5)]
POSITIVE = {"L": "R", "P": "A", "I": "S"}


def refused(name="kspace"):
    return one_sentence(name)


def head(shape, seed=0):
    """A positive image with structure, float64."""
    return np.random.default_rng(seed).random(shape) + 0.5


def fastmri_transform(images):
    """The forward model of the data set, to the letter."""
    axes = (-2, -1)
    spectra = np.fft.fft2(np.fft.ifftshift(images, axes=axes), norm="ortho", axes=axes)
    return np.fft.fftshift(spectra, axes=axes)


def header(encoded, recon=None, encoded_mm=None, recon_mm=None, more="", trajectory="cartesian"):
    recon = recon or encoded
    encoded_mm = encoded_mm or [float(n) for n in encoded]
    # Pixels of the same size.
    recon_mm = recon_mm or [float(mm) * m / n for mm, m, n in zip(encoded_mm, recon, encoded, strict=True)]

    def space(name, matrix, fov):
        def box(part, values):
            return f"<{part}>" + "".join(f"<{a}>{v}</{a}>" for a, v in zip("xyz", values, strict=True)) + f"</{part}>"

        return f"<{name}>{box('matrixSize', matrix)}{box('fieldOfView_mm', fov)}</{name}>"

    return (
        '<?xml version="1.0" encoding="UTF-8"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        "<experimentalConditions><H1resonanceFrequency_Hz>1</H1resonanceFrequency_Hz></experimentalConditions>"
        f"<encoding>{space('encodedSpace', encoded, encoded_mm)}{space('reconSpace', recon, recon_mm)}"
        f"<encodingLimits>{more}</encodingLimits><trajectory>{trajectory}</trajectory></encoding></ismrmrdHeader>"
    )


def write(path, kspace, mask=None, xml=None, dtype=np.complex64, **how):
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=np.asarray(kspace).astype(dtype), **how)
        if mask is not None:
            file["mask"] = mask
        if xml is not None:
            file["ismrmrd_header"] = xml
    return path


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, ">c8"])
@pytest.mark.parametrize("shape", SIZES)
def test_samples_are_those_of_the_operator(tmp_path, shape, dtype):
    images = head(shape)
    loaded = load_kspace(write(tmp_path / "a.h5", fastmri_transform(images), dtype=dtype), orientation="SRA")
    expected = MaskedFourier(loaded.mask).apply(images.astype(np.float32))
    assert loaded.data.dtype == np.complex64
    assert loaded.data.flags.c_contiguous
    assert abs(loaded.data - expected).max() < 1e-5 * abs(expected).max()
    assert loaded.plane == Plane(NAMED_PLANES["axial"])
    assert not loaded.is_multicoil
    np.testing.assert_allclose(loaded.zero_filled(), images, rtol=1e-5)
    np.testing.assert_array_equal(loaded.mask, np.ones(shape[1:]))
    assert loaded.crop == ((0, shape[1]), (0, shape[2]))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("size", [(4, 6, 7), (3, 5, 8)])
def test_every_orientation_gives_the_same_volume(tmp_path, orientation, size):
    volume = head(size)
    axes = [{"R": 0, "A": 1, "S": 2}[POSITIVE.get(letter, letter)] for letter in orientation]
    flips = tuple(slice(None, None, -1 if letter in POSITIVE else 1) for letter in orientation)
    stack = volume.transpose(axes)[flips]
    mask = np.ones(stack.shape[1:])
    mask[1, 2] = mask[2, 0] = mask[0, 1] = 0
    path = write(tmp_path / "a.h5", mask * fastmri_transform(stack), mask)
    loaded = load_kspace(path, orientation=orientation)
    assert str(loaded.plane) in NAMED_PLANES
    slices = loaded.plane.slices_of(volume).astype(np.float32)
    expected = MaskedFourier(loaded.mask).apply(slices)
    assert loaded.mask.sum() == mask.sum()
    assert abs(loaded.data - expected).max() < 1e-5 * abs(expected).max()
    whole = load_kspace(write(path, fastmri_transform(stack)), orientation=orientation)
    np.testing.assert_allclose(whole.plane.volume_of(whole.zero_filled()), volume, rtol=1e-5)
    assert (np.diag(whole.affine)[:3] > 0).all()


def test_the_default_is_axial_in_radiological_view(tmp_path):
    volume = head((6, 7, 3))
    stack = volume.transpose(2, 1, 0)[:, ::-1, ::-1]
    loaded = load_kspace(write(tmp_path / "a.h5", fastmri_transform(stack)))
    np.testing.assert_allclose(loaded.plane.volume_of(loaded.zero_filled()), volume, rtol=1e-5)


def test_coils_keep_their_own_images(tmp_path):
    coils = head((2, 3, 6, 8)) * np.exp(1j * head((2, 3, 6, 8), 1))
    loaded = load_kspace(write(tmp_path / "a.h5", fastmri_transform(coils)), orientation="SAL")
    assert loaded.is_multicoil
    assert loaded.data.shape == (2, 3, 8, 6)
    images = np.fft.ifft2(np.fft.ifftshift(loaded.data, axes=(-2, -1)))
    np.testing.assert_allclose(images, coils.swapaxes(-1, -2)[:, :, ::-1], rtol=1e-4)
    np.testing.assert_allclose(loaded.zero_filled(), np.linalg.norm(images, axis=1), rtol=1e-5)


def test_one_coil_has_no_axis(tmp_path):
    loaded = load_kspace(write(tmp_path / "a.h5", fastmri_transform(head((2, 1, 6, 8)))))
    assert loaded.data.shape == (2, 8, 6)


@pytest.mark.parametrize("is_flat", [True, False])
def test_masks_of_the_file_and_of_the_user(tmp_path, is_flat):
    full = fastmri_transform(head((2, 6, 8)))
    mask = np.array([0, 1, 0, 1, 1, 1, 0, 0], np.float32)
    path = write(tmp_path / "a.h5", full, mask if is_flat else np.tile(mask, (6, 1)))
    loaded = load_kspace(path, orientation="SRA")
    np.testing.assert_array_equal(loaded.mask, np.tile(mask, (6, 1)))
    assert not loaded.data[:, loaded.mask == 0].any()
    chosen = np.roll(mask, 1).astype(bool)
    np.save(tmp_path / "m.npy", chosen if is_flat else np.tile(chosen, (6, 1)))
    loaded = load_kspace(path, orientation="SRA", mask=tmp_path / "m.npy")
    np.testing.assert_array_equal(loaded.mask, np.tile(chosen, (6, 1)))
    assert not loaded.data[:, loaded.mask == 0].any()


def test_without_a_mask_zeros_in_all_slices_are_holes(tmp_path):
    samples = fastmri_transform(head((3, 20, 20))) + 0.1
    mask = np.random.default_rng(1).random((20, 20)) < 0.4
    loaded = load_kspace(write(tmp_path / "a.h5", samples * mask), orientation="SRA")
    np.testing.assert_array_equal(loaded.mask, mask)
    # One zero in a line is a value; a line of zeros, and an empty slice, are as they are.
    lines = samples * (np.arange(20) % 3 == 1)
    lines[:, 4, 4] = lines[1] = 0
    loaded = load_kspace(write(tmp_path / "a.h5", lines), orientation="SRA")
    np.testing.assert_array_equal(loaded.mask, np.tile(np.arange(20) % 3 == 1, (20, 1)))


def test_padding_is_not_measured_whatever_the_mask_says(tmp_path):
    samples = fastmri_transform(head((2, 6, 8)))
    samples[..., :2] = 0
    loaded = load_kspace(write(tmp_path / "a.h5", samples, np.ones(8)), orientation="SRA")
    np.testing.assert_array_equal(loaded.mask, np.tile(np.arange(8) >= 2, (6, 1)))


def test_slices_sampled_differently_are_refused_by_number(tmp_path):
    samples = fastmri_transform(head((3, 20, 20)))
    samples[2, :, ::4] = 0
    with refused() as caught:
        load_kspace(write(tmp_path / "a.h5", samples))
    assert "slice 2" in str(caught.value)


@pytest.mark.parametrize("sizes", [(12, 6), (13, 6), (12, 7), (11, 5)])
def test_readout_oversampling_is_cut_off_in_the_image(tmp_path, sizes):
    n_over, n_rows = sizes
    images = head((2, n_over, 8)).astype(np.complex64)
    start = n_over // 2 - n_rows // 2
    xml = header((n_over, 8, 1), (n_rows, 6, 1), (2.0 * n_over, 8.0, 5.0), (2.0 * n_rows, 6.0, 5.0))
    mask = np.array([1, 1, 0, 1, 1, 1, 0, 1])
    loaded = load_kspace(write(tmp_path / "a.h5", fastmri_transform(images) * mask, mask, xml), orientation="SRA")
    inner = images[:, start : start + n_rows]
    expected = MaskedFourier(loaded.mask, np.complex64).apply(inner)
    assert loaded.data.shape == (2, n_rows, 8)
    assert abs(loaded.data - expected).max() < 1e-5 * abs(expected).max()
    np.testing.assert_allclose(loaded.voxel_mm, (2, 1, 5))
    assert loaded.crop == ((0, n_rows), (1, 7))
    # The middle of the image stays at the scanner's origin.
    np.testing.assert_allclose(loaded.affine @ [n_rows // 2, 4, 1, 1], [0, 0, 0, 1], atol=1e-9)


def test_readouts_with_holes_keep_their_oversampling(tmp_path, caplog):
    mask = np.ones((12, 8))
    mask[3, 5] = 0
    xml = header((12, 8, 1), (6, 8, 1))
    path = write(tmp_path / "a.h5", fastmri_transform(head((2, 12, 8))) * mask, mask, xml)
    with caplog.at_level(logging.WARNING):
        loaded = load_kspace(path, orientation="SRA")
    assert loaded.data.shape == (2, 12, 8)
    assert loaded.crop == ((3, 9), (0, 8))
    assert "oversampling stays" in caplog.text


def test_a_smaller_matrix_of_the_same_field_of_view_is_no_oversampling(tmp_path):
    xml = header((12, 8, 1), (6, 8, 1), (24.0, 8.0, 5.0), (24.0, 8.0, 5.0))
    loaded = load_kspace(write(tmp_path / "a.h5", fastmri_transform(head((2, 12, 8))), xml=xml), orientation="SRA")
    assert loaded.data.shape == (2, 12, 8)
    np.testing.assert_allclose(loaded.voxel_mm, (2, 1, 5))


def test_the_crop_follows_the_axes(tmp_path):
    volume = head((12, 9, 4))
    stack = volume.transpose(2, 1, 0)[:, ::-1, ::-1]  # SPL
    xml = header((9, 12, 1), (9, 7, 1))
    loaded = load_kspace(write(tmp_path / "a.h5", fastmri_transform(stack), xml=xml))
    first = 12 // 2 - 7 // 2
    assert loaded.crop == ((12 - first - 7, 12 - first), (0, 9))
    part, affine = loaded.cropped(volume)
    np.testing.assert_array_equal(part, volume[12 - first - 7 : 12 - first])
    np.testing.assert_allclose(affine @ [0, 0, 0, 1], loaded.affine @ [12 - first - 7, 0, 0, 1])


def scan_of(plane="axial", shape=(3, 6, 9), n_coils=None, **more):
    rng = np.random.default_rng(3)
    mask = (rng.random(shape[1:]) < 0.5).astype(np.float32)
    mask[shape[1] // 2, shape[2] // 2] = 1
    full = (shape[0], *([] if n_coils is None else [n_coils]), *shape[1:])
    data = ((rng.standard_normal(full) + 1j * rng.standard_normal(full)) * mask).astype(np.complex64)
    affine = np.array([[1.1, 0.1, 0, -20], [-0.1, 1.2, 0.02, 30], [0, 0, 3.3, 7], [0, 0, 0, 1]])
    how = {"crop": ((1, 5), (2, 9)), "source": "here", "noise_level": 0.25, **more}
    return KSpace(data, how.pop("mask", mask), Plane(NAMED_PLANES[plane]), affine, **how)


@pytest.mark.parametrize("n_coils", [None, 3])
@pytest.mark.parametrize("plane", NAMED_PLANES)
def test_what_was_saved_is_loaded_again(tmp_path, plane, n_coils):
    scan = scan_of(plane, n_coils=n_coils)
    save_fastmri(tmp_path / "a.h5", scan)
    loaded = load_kspace(tmp_path / "a.h5")
    assert loaded.data.shape == scan.data.shape
    assert abs(loaded.data - scan.data).max() < 1e-6 * abs(scan.data).max()
    np.testing.assert_array_equal(loaded.mask, scan.mask)
    np.testing.assert_array_equal(loaded.affine, scan.affine)
    assert (loaded.plane, loaded.crop) == (scan.plane, scan.crop)
    assert loaded.noise_level == pytest.approx(0.25)
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]
    save_fastmri(tmp_path / "a.h5", scan, noise=0.5)
    assert load_kspace(tmp_path / "a.h5").noise_level == pytest.approx(0.5)


def test_saved_files_are_those_of_fastmri(tmp_path):
    schema = pytest.importorskip("ismrmrd.xsd", reason="the header's schema is in the extra `mri`")
    images = head((3, 6, 9))
    mask = np.tile(np.float32([1, 0, 1, 1, 1, 1, 0, 1, 1]), (6, 1))
    data = MaskedFourier(mask).apply(images.astype(np.float32))
    save_fastmri(tmp_path / "a.h5", KSpace(data, mask, Plane((2, 0, 1)), np.diag([2.0, 3, 4, 1]), ((0, 6), (0, 9)), ""))
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["mask"], mask[0])
        np.testing.assert_allclose(file["kspace"], fastmri_transform(images) * mask, atol=1e-5)
        found = schema.CreateFromDocument(file["ismrmrd_header"][()]).encoding[0]
    assert found.encodedSpace.matrixSize.x == 6
    assert found.encodedSpace.fieldOfView_mm.y == pytest.approx(27)
    # Where somebody states another orientation, the header's spacing is what is left of the affine.
    loaded = load_kspace(tmp_path / "a.h5", orientation="SLP")
    np.testing.assert_allclose(loaded.voxel_mm, (2, 3, 4))


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"old")
    with pytest.raises(AttributeError):
        save_fastmri(path, scan_of(noise_level="no number").__class__(*[None] * 6))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.parametrize("orientation", ["SP", "SPX", "SPA", "SPLR", "", "RRR"])
def test_orientations_that_are_none_are_refused(tmp_path, orientation):
    path = write(tmp_path / "a.h5", fastmri_transform(head((2, 6, 8))))
    with refused("orientation"):
        load_kspace(path, orientation=orientation)


@pytest.mark.parametrize(
    "kspace",
    [np.ones((6, 8)), np.ones((2, 2, 2, 6, 8)), np.ones((0, 6, 8)), np.zeros((2, 6, 8))],
    ids=["rank 2", "rank 5", "empty", "zero"],
)
def test_arrays_that_are_no_scan_are_refused(tmp_path, kspace):
    with refused():
        load_kspace(write(tmp_path / "a.h5", kspace))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300, 1e25])
def test_values_that_are_not_finite_are_counted(tmp_path, bad):
    samples = fastmri_transform(head((2, 6, 8)))
    samples[1, 2, 3] = bad
    with refused() as caught:
        load_kspace(write(tmp_path / "a.h5", samples, dtype=np.complex128))
    assert "got 1 " in str(caught.value)


def test_nan_infinite_and_large_samples_are_told_apart(tmp_path):
    samples = fastmri_transform(head((2, 6, 8))).astype(np.complex64)
    samples[0, 1, 1] = 1e25
    with one_sentence("kspace", "got 1 larger, up to 1e+25, in", "divide all samples"):
        load_kspace(write(tmp_path / "a.h5", samples))
    samples[1, 2, 3] = np.inf
    with one_sentence("kspace", "got 1 infinite in"):
        load_kspace(write(tmp_path / "a.h5", samples))
    samples[1, 2, 4:6] = np.nan
    with one_sentence("kspace", "got 2 NaN and 1 infinite in"):
        load_kspace(write(tmp_path / "a.h5", samples))


@pytest.mark.parametrize("factor", [5e13, 1e-22])
def test_samples_in_the_units_of_any_scanner_are_read(tmp_path, factor):
    """Squares of them are beyond float32, the image is not."""
    image = head((2, 6, 8))
    kspace = load_kspace(write(tmp_path / "a.h5", factor * fastmri_transform(image), dtype=np.complex64))
    expected = load_kspace(write(tmp_path / "b.h5", fastmri_transform(image), dtype=np.complex64)).zero_filled()
    np.testing.assert_allclose(kspace.zero_filled() / np.float32(factor), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_real_numbers_are_refused(tmp_path, dtype):
    with refused():
        load_kspace(write(tmp_path / "a.h5", np.ones((2, 6, 8)), dtype=dtype))


@pytest.mark.parametrize("mask", [np.ones(7), np.ones((8, 6)), np.full(8, 0.5), np.full(8, np.nan), np.zeros(8)])
def test_masks_that_do_not_fit_are_refused(tmp_path, mask):
    path = write(tmp_path / "a.h5", fastmri_transform(head((2, 6, 8))))
    np.save(tmp_path / "m.npy", mask)
    with refused("mask"):
        load_kspace(path, mask=tmp_path / "m.npy")
    with refused():
        load_kspace(write(path, fastmri_transform(head((2, 6, 8))), mask))


def test_mask_files_that_are_none_are_refused(tmp_path):
    path = write(tmp_path / "a.h5", fastmri_transform(head((2, 6, 8))))
    (tmp_path / "m.npy").write_bytes(b"\x93NUMPY no more")
    for name in ("m.npy", "missing.npy"):
        with refused("mask"):
            load_kspace(path, mask=tmp_path / name)


@pytest.mark.parametrize(
    "xml",
    [
        "no xml",
        "<a/>",
        header((0, 8, 1), recon_mm=(1.0, 8.0, 1.0)),
        header((6, 8, 1), encoded_mm=(0.0, 8.0, 1.0)),
        header((6, 8, 1), encoded_mm=("nan", 8.0, 1.0)),
        header((6, 8, 10**9)),
        header((6.5, 8, 1)),
        header((6, 8, 1), more="<kspace_encoding_step_1><center>-1</center></kspace_encoding_step_1>"),
        header((6, 8, 1)).replace("?>", '?><!DOCTYPE a [<!ENTITY b "c">]>'),
        header((6, 8, 1)).replace("cartesian", "x" * 2**20),
    ],
    ids=["text", "other", "zero", "no fov", "nan", "huge", "fraction", "limit", "entities", "long"],
)
def test_headers_that_say_nothing_are_refused(tmp_path, xml):
    with refused():
        load_kspace(write(tmp_path / "a.h5", fastmri_transform(head((2, 6, 8))), xml=xml))


def test_entities_of_other_files_and_laughs_are_not_expanded(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("12")
    for entity in (f'<!ENTITY e SYSTEM "file://{secret}">', '<!ENTITY d "99"><!ENTITY e "&d;&d;&d;&d;">'):
        xml = header((6, 8, 1)).replace("?>", f"?><!DOCTYPE a [{entity}]>").replace("<x>6</x>", "<x>&e;</x>")
        with refused() as caught:
            load_kspace(write(tmp_path / "a.h5", fastmri_transform(head((2, 6, 8))), xml=xml))
        assert "document type" in str(caught.value)


def test_the_name_of_the_argument_is_the_callers(tmp_path):
    with refused("scan"):
        load_kspace(tmp_path / "missing.h5", argument="scan")


def test_without_ismrmrd_its_files_are_refused_with_a_remedy(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("dataset")
    monkeypatch.setitem(sys.modules, "ismrmrd", None)
    # In this process, where the package is missing.
    monkeypatch.setattr(kspace, "_read", kspace._read.__wrapped__)
    with refused() as caught:
        load_kspace(tmp_path / "a.h5")
    assert "[mri]" in str(caught.value)


def test_the_largest_values_that_are_read_do_not_overflow(tmp_path):
    samples = np.full((1, 3, 64, 64), 0.99e12)
    loaded = load_kspace(write(tmp_path / "a.h5", samples), orientation="SRA")
    assert np.isfinite(loaded.zero_filled()).all()
    assert np.isfinite((abs(loaded.data) ** 2).sum())
