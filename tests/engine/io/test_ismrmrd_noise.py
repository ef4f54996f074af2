"""Noise scans of ISMRMRD files: the level that they tell, white channels, and which of them tell nothing."""

from __future__ import annotations

import numpy as np
import pytest

from engine.io.measurements.kspace import load_kspace
from engine.operators import CoilFourier, MaskedFourier
from engine.problems.acquisition import of_kspace
from engine.problems.coil_maps import load_maps
from engine.problems.noise_level import with_noise_level
from engine.volume import Plane
from tests.engine.io.acquisitions import centred, coil_images, header, ismrmrd, lines_of, readout, write

SHAPE = (2, 3, 16, 15)
CALIBRATION = ismrmrd.ACQ_IS_PARALLEL_CALIBRATION
#: From independent noise of standard deviation 1, real and imaginary part each, to that of three receivers.
MIXING = np.array([[3, 0, 0], [1 + 1j, 2, 0], [0.5j, 0.2, 0.5]])


def white(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def noise(shape, seed=0, mixing=MIXING):
    """Of receivers along axis 1."""
    return np.moveaxis(np.tensordot(mixing, white(shape, seed), (1, 1)), 0, 1)


def noise_scan(mixing=MIXING, n=20, strength=1.0, n_samples=500, **head):
    scans = strength * noise((n, len(mixing), n_samples), 9, mixing)
    return [readout(one, 0, flags=[ismrmrd.ACQ_IS_NOISE_MEASUREMENT], **head) for one in scans]


def level(loaded):
    """In units of the file: orthonormal transforms keep it."""
    return loaded.noise_level / np.sqrt(loaded.mask.size)


def of_receivers(loaded):
    """Covariance of the channels of what was loaded, in units of the file, where that is noise alone."""
    samples = np.moveaxis(loaded.data, 1, 0).reshape(loaded.data.shape[1], -1) / np.sqrt(loaded.mask.size)
    return samples @ samples.conj().T / samples.shape[1]


@pytest.mark.parametrize(
    ("encoded", "recon"), [((64, 63, 1), None), ((64, 63, 1), (32, 63, 1)), ((32, 31, 4), None)], ids=str
)
def test_channels_get_white_noise_of_the_level_that_is_stated(tmp_path, encoded, recon):
    """Whether readouts are oversampled, and whether there are partitions."""
    n_slices = 2 if encoded[2] == 1 else encoded[2]
    samples = noise((n_slices, 3, *encoded[:2]))
    acquisitions = lines_of(samples)
    if encoded[2] > 1:
        for one in acquisitions:
            one.idx.kspace_encode_step_2, one.idx.slice = one.idx.slice, 0
    path = write(tmp_path / "a.mrd", header(encoded, recon), [*noise_scan(), *acquisitions])
    loaded = load_kspace(path, orientation="SRA")
    # Some thousand samples.
    np.testing.assert_allclose(of_receivers(loaded) / (2 * level(loaded) ** 2), np.eye(3), atol=0.1)
    np.testing.assert_allclose(2 * level(loaded) ** 2, np.linalg.norm(MIXING) ** 2 * 2 / 3, rtol=0.05)


def test_equal_and_independent_receivers_are_left_alone(tmp_path):
    samples = centred(coil_images(SHAPE))
    scan = noise_scan(0.2 * np.eye(3), n=200)
    alone = load_kspace(write(tmp_path / "a.mrd", header((16, 15, 1)), lines_of(samples)))
    loaded = load_kspace(write(tmp_path / "a.mrd", header((16, 15, 1)), [*scan, *lines_of(samples)]))
    assert abs(loaded.data - alone.data).max() < 0.02 * abs(alone.data).max()
    assert level(loaded) == pytest.approx(0.2, rel=0.02)
    assert alone.noise_level is None and alone.noise_origin == ""


@pytest.mark.parametrize(
    ("image_us", "noise_us", "bandwidth", "strength"),
    [
        (8, 2, None, 2.0),
        (2, 8, None, 0.5),
        (8, 2, 0.793, 2 * 0.793**0.5),
        (0, 2, 0.793, 0.793**0.5),
        (8, 0, None, 1),
        (8, np.nan, None, 1),
        (8, 8, 31.25, 1),
        (8, 8, -1.0, 1),
    ],
)
def test_bandwidths_count(tmp_path, image_us, noise_us, bandwidth, strength):
    """The noise scan has the receivers' noise in its own band, less what the filter takes at the ends of that."""
    xml = header((16, 15, 1), bandwidth=bandwidth)
    acquisitions = lines_of(centred(coil_images(SHAPE)), sample_time_us=image_us)
    scan = noise_scan(np.eye(3), strength=0.1 * strength, sample_time_us=noise_us)
    assert level(load_kspace(write(tmp_path / "a.mrd", xml, [*scan, *acquisitions]))) == pytest.approx(0.1, rel=0.02)


def test_averages_have_less(tmp_path):
    acquisitions = noise_scan(np.eye(3))
    for average, lines in enumerate((range(15), range(15), range(5))):
        for one in lines_of(centred(coil_images(SHAPE)), lines):
            one.idx.average = average
            acquisitions.append(one)
    loaded = load_kspace(write(tmp_path / "a.mrd", header((16, 15, 1)), acquisitions))
    assert level(loaded) == pytest.approx(((10 / 2 + 5 / 3) / 15) ** 0.5, rel=0.02)


def test_one_channel_has_a_level_alone(tmp_path):
    samples = centred(coil_images((2, 1, 16, 15)))
    path = write(tmp_path / "a.mrd", header((16, 15, 1)), [*noise_scan(np.eye(1) * 0.3), *lines_of(samples)])
    loaded = load_kspace(path, orientation="SRA")
    assert level(loaded) == pytest.approx(0.3, rel=0.02)
    full = MaskedFourier(loaded.mask, np.complex64).apply(coil_images((2, 1, 16, 15))[:, 0].astype(np.complex64))
    assert abs(loaded.data - full).max() < 1e-5 * abs(full).max()


@pytest.mark.parametrize("orientation", ["SRA", "SPL"])
def test_maps_and_calibration_lines_are_mixed_as_the_image_is(tmp_path, orientation):
    maps, image = coil_images(SHAPE, 1), coil_images((2, 1, 16, 15), 2).real
    acquisitions = [*noise_scan(), *lines_of(centred(maps * image))]
    acquisitions += lines_of(centred(maps * image), flags=[CALIBRATION])
    path = write(tmp_path / "a.mrd", header((16, 15, 1), mode="separate"), acquisitions)
    loaded = load_kspace(path, orientation=orientation)
    np.save(tmp_path / "maps.npy", maps.astype(np.complex64))
    operator = CoilFourier(loaded.mask, load_maps(tmp_path / "maps.npy", loaded))
    (rows, columns), of_file = loaded.mask.shape, image[:, 0]
    if orientation == "SPL":
        of_file = of_file[:, ::-1, ::-1].swapaxes(-1, -2)
    assert (rows, columns) == of_file.shape[1:]
    expected = operator.apply(np.ascontiguousarray(of_file, np.float32))
    assert abs(loaded.data - expected).max() < 1e-5 * abs(expected).max()
    assert abs(loaded.calibration.data - expected).max() < 1e-5 * abs(expected).max()


@pytest.mark.parametrize(
    ("scan", "words"),
    [
        (noise_scan(np.eye(2)), "other channels"),
        (noise_scan(n=1, n_samples=29), "29 samples for 3 channels, is too short"),
        (noise_scan(strength=np.nan), "NaN or infinite"),
        (noise_scan(strength=0), "without noise of their own"),
        (noise_scan(np.diag([1, 1, 0])), "without noise of their own"),
        (noise_scan(np.ones((3, 3))), "without noise of their own"),
    ],
    ids=["channels", "short", "nan", "zero", "dead", "same"],
)
def test_scans_that_tell_nothing_are_left_out_with_a_warning(tmp_path, caplog, scan, words):
    samples = centred(coil_images(SHAPE))
    loaded = load_kspace(write(tmp_path / "a.mrd", header((16, 15, 1)), [*scan, *lines_of(samples)]))
    alone = load_kspace(write(tmp_path / "b.mrd", header((16, 15, 1)), lines_of(samples)))
    assert words in caplog.text and "left out" in caplog.text
    np.testing.assert_array_equal(loaded.data, alone.data)
    assert loaded.noise_level is None


def test_the_record_says_where_the_level_is_from(tmp_path):
    acquisitions = lines_of(centred(coil_images((2, 1, 16, 15))))
    plane = Plane.parse("axial")
    for scan, source in ((noise_scan(np.eye(1) * 0.3), "noise scan"), ([], "estimate")):
        path = write(tmp_path / "a.mrd", header((16, 15, 1)), [*scan, *acquisitions])
        kspace = load_kspace(path)
        found = of_kspace(kspace, phase="none", white=2.0)
        assert found.knows_noise == bool(scan)
        posed = with_noise_level(found.problem(plane), "known" if scan else "estimate")
        assert posed.details["noise_level_source"] == source
        if scan:
            assert posed.details["noise_scan"] == "noise scan of 10000 samples, 1 channel"
            assert posed.noise_level == pytest.approx(0.3 / 2 * np.sqrt(16 * 15), rel=0.02)


def test_intensities_stay_those_of_the_files_channels(tmp_path):
    samples = centred(coil_images(SHAPE))
    with_scan = load_kspace(write(tmp_path / "a.mrd", header((16, 15, 1)), [*noise_scan(), *lines_of(samples)]))
    without = load_kspace(write(tmp_path / "b.mrd", header((16, 15, 1)), lines_of(samples)))
    assert abs(with_scan.data - without.data).max() > 0.1 * abs(without.data).max()
    np.testing.assert_allclose(with_scan.zero_filled(), without.zero_filled(), rtol=1e-4)


def test_estimated_maps_are_normalised_in_the_files_channels(tmp_path):
    pytest.importorskip("sigpy", reason="sigpy is in the extra `mri`")
    y, x = np.meshgrid(np.linspace(-1, 1, 24), np.linspace(-1, 1, 24), indexing="ij")
    maps = np.stack([np.exp(-((x - a) ** 2 + (y - b) ** 2)) for a, b in ((1, 0), (-1, 0.5), (0, -1))])
    samples = centred((x**2 + y**2 < 0.6) * maps)[None]
    path = write(tmp_path / "a.mrd", header((24, 24, 1)), [*noise_scan(0.3 * MIXING), *lines_of(samples)])
    kspace = load_kspace(path)
    operator = of_kspace(kspace, phase="none", white=1.0).problem(Plane.parse("axial")).operator
    size = np.linalg.norm(kspace.file_grid.of_channels(operator.maps), axis=1)
    assert (size > 0).any()
    np.testing.assert_allclose(size[size > 0], 1, rtol=1e-4)
