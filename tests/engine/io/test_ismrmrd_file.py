"""Scans from ISMRMRD files, written with its own package: sorting, averages, slabs, geometry, and what is refused."""

from __future__ import annotations

from itertools import permutations, product

import h5py
import numpy as np
import pytest

from engine.io.measurements.kspace import load_kspace
from engine.io.measurements.kspace_options import KSpaceReading
from engine.operators import MaskedFourier
from tests.engine.io.acquisitions import centred, coil_images, header, images_of, lines_of, readout, write
from tests.engine.io.libismrmrd import write_as_c_does
from tests.refusals import one_sentence

ismrmrd = pytest.importorskip("ismrmrd", reason="the package of the format is in the extra `mri`")


def refused(name="kspace"):
    return one_sentence(name)


def test_slices_and_lines_are_sorted(tmp_path):
    images = coil_images()
    xml = header((8, 7, 1), encoded_mm=(16, 7, 4))
    loaded = load_kspace(write(tmp_path / "a.mrd", xml, lines_of(centred(images))), orientation="SRA")
    np.testing.assert_allclose(images_of(loaded), images, rtol=1e-4)
    np.testing.assert_allclose(loaded.voxel_mm, (2, 1, 4))
    np.testing.assert_array_equal(loaded.mask, np.ones((8, 7)))


def test_files_written_acquisition_by_acquisition(tmp_path):
    images = coil_images()
    with ismrmrd.Dataset(str(tmp_path / "a.h5")) as file:
        file.write_xml_header(header((8, 7, 1)))
        for acquisition in lines_of(centred(images)):
            file.append_acquisition(acquisition)
    np.testing.assert_allclose(images_of(load_kspace(tmp_path / "a.h5", orientation="SRA")), images, rtol=1e-4)


@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_files_that_grew_in_several_sittings_and_hold_more(tmp_path, version):
    images = coil_images()
    acquisitions = lines_of(centred(images))
    for part in (acquisitions[:5], acquisitions[5:6], acquisitions[6:]):
        with ismrmrd.Dataset(str(tmp_path / "a.h5")) as file:
            file.write_xml_header(header((8, 7, 1)))
            for acquisition in part:
                file.append_acquisition(acquisition)
    with ismrmrd.Dataset(str(tmp_path / "a.h5")) as file:
        file.append_image("images", ismrmrd.Image.from_array(np.ones((8, 7), np.complex64)))
        file.append_array("noise", np.ones((2, 2)))
    with h5py.File(tmp_path / "a.h5") as file, h5py.File(tmp_path / "b.h5", "w", libver=version) as copy:
        file.copy("dataset", copy)
    for name in ("a.h5", "b.h5"):
        np.testing.assert_allclose(images_of(load_kspace(tmp_path / name, orientation="SRA")), images, rtol=1e-4)


def test_files_of_the_library_in_c(tmp_path):
    images = coil_images()
    acquisitions = lines_of(centred(images), directions=np.eye(3))
    noise = readout(np.full((2, 5), 9), 0, flags=[ismrmrd.ACQ_IS_NOISE_MEASUREMENT])
    for one in (write_as_c_does, write):
        loaded = load_kspace(one(tmp_path / "a.h5", header((8, 7, 1)), [noise, *acquisitions]), orientation="SRA")
        np.testing.assert_allclose(images_of(loaded), images, rtol=1e-4)
    with h5py.File(write_as_c_does(tmp_path / "a.h5", header((8, 7, 1)), acquisitions), "r+") as file:
        assert file["dataset/data"].id.get_type().get_size() == 376
        entry = file["dataset/data"][3:4]
        entry["data"][0] = entry["data"][0][:-1]
        file["dataset/data"][3:4] = entry
    with refused() as caught:
        load_kspace(tmp_path / "a.h5", orientation="SRA")
    assert "cannot reshape" in str(caught.value)


def test_fields_of_other_names_are_refused(tmp_path):
    content = write(tmp_path / "a.h5", header((8, 7, 1)), lines_of(centred(coil_images()))).read_bytes()
    for name in (b"discard_pre", b"average", b"traj"):
        assert content.count(name + b"\0") == 1
        (tmp_path / "a.h5").write_bytes(content.replace(name + b"\0", b" " + name[1:] + b"\0"))
        with refused() as caught:
            load_kspace(tmp_path / "a.h5")
        assert "cannot be read" in str(caught.value)


def test_samples_of_another_type_are_refused(tmp_path):
    path = write(tmp_path / "a.h5", header((8, 7, 1)), lines_of(centred(coil_images())))
    kinds = [np.float64, np.int32, np.complex128, [("r", "f4"), ("i", "i4")], [("a", "f4"), ("b", "f4"), ("c", "f4")]]
    for kind in kinds:
        with h5py.File(path, "r+") as file:
            head = file["dataset/data"].dtype["head"]
            del file["dataset/data"]
            record = [("head", head), ("traj", h5py.vlen_dtype(np.float32)), ("data", h5py.vlen_dtype(kind))]
            entries = np.zeros(1, record)
            entries["head"]["number_of_samples"] = entries["head"]["active_channels"] = 1
            entries[0]["traj"], entries[0]["data"] = np.zeros(0, np.float32), np.zeros(2, kind)
            file["dataset"].create_dataset("data", data=entries)
        with refused():
            load_kspace(path)


def test_one_channel_has_no_axis(tmp_path):
    loaded = load_kspace(write(tmp_path / "a.mrd", header((8, 7, 1)), lines_of(centred(coil_images((3, 1, 8, 7))))))
    assert loaded.data.shape == (3, 7, 8)  # SPL: columns along x, rows along y


def test_lines_not_taken_are_not_in_the_mask(tmp_path):
    samples = centred(coil_images())
    samples[:, :, :, 3] = 0  # measured, and zero
    lines = [1, 3, 4, 6]
    loaded = load_kspace(write(tmp_path / "a.mrd", header((8, 7, 1)), lines_of(samples, lines)), orientation="SRA")
    np.testing.assert_array_equal(loaded.mask, np.tile(np.isin(np.arange(7), lines), (8, 1)))
    chosen = np.arange(7) < 4
    np.save(tmp_path / "m.npy", chosen)
    loaded = load_kspace(tmp_path / "a.mrd", orientation="SRA", mask=tmp_path / "m.npy")
    np.testing.assert_array_equal(loaded.mask, np.tile(np.isin(np.arange(7), [1, 3]), (8, 1)))


def test_averages_are_averaged_and_other_scans_left_out(tmp_path):
    samples, noise = centred(coil_images()), centred(coil_images(seed=1))
    acquisitions = []
    for average, sign in enumerate((1, -1)):
        for one in lines_of(samples + sign * noise):
            one.idx.average = average
            acquisitions.append(one)
    for name in ("NAVIGATION_DATA", "PHASECORR_DATA", "DUMMYSCAN_DATA", "PARALLEL_CALIBRATION"):
        acquisitions.append(readout(noise[0, :, :, 0] * 1e3, 3, flags=[getattr(ismrmrd, f"ACQ_IS_{name}")]))
    acquisitions.insert(0, readout(np.ones((3, 200)), 60000, flags=[ismrmrd.ACQ_IS_NOISE_MEASUREMENT]))
    loaded = load_kspace(write(tmp_path / "a.mrd", header((8, 7, 1)), acquisitions), orientation="SRA")
    np.testing.assert_allclose(images_of(loaded), coil_images(), rtol=1e-4)


@pytest.mark.parametrize(("mode", "n_lines"), [("embedded", 7), ("separate", 5)])
def test_calibration_lines_count_where_they_belong_to_the_scan(tmp_path, mode, n_lines):
    samples = centred(coil_images())
    acquisitions = lines_of(samples, [0, 1, 2, 4, 6])
    acquisitions += lines_of(samples, [3, 5], flags=[ismrmrd.ACQ_IS_PARALLEL_CALIBRATION])
    loaded = load_kspace(write(tmp_path / "a.mrd", header((8, 7, 1), mode=mode), acquisitions), orientation="SRA")
    assert loaded.mask[0].sum() == n_lines


@pytest.mark.parametrize("mode", ["interleaved", "separate", "external", ""])
def test_calibration_lines_that_are_none_of_the_image_are_the_coils(tmp_path, mode):
    """With them come, where they are of the same contrast, the image's own lines between them."""
    samples, coils = centred(coil_images()), centred(coil_images(seed=1))
    acquisitions = lines_of(samples, [0, 2, 4, 6])
    acquisitions += lines_of(coils, [3, 5], flags=[ismrmrd.ACQ_IS_PARALLEL_CALIBRATION])
    xml = header((8, 7, 1), mode=mode)
    loaded = load_kspace(write(tmp_path / "a.mrd", xml, acquisitions), orientation="SRA")
    np.testing.assert_array_equal(loaded.mask[0], [1, 0, 1, 0, 1, 0, 1])
    found = loaded.calibration
    assert found.is_of_image == (mode in ("interleaved", ""))
    np.testing.assert_array_equal(found.mask[0], [1, 0, 1, 1, 1, 1, 1] if found.is_of_image else [0, 0, 0, 1, 0, 1, 0])
    full = MaskedFourier(np.ones((8, 7), np.float32), np.complex64)
    for coil in range(2):
        alone = full.apply(coil_images(seed=1)[:, coil].astype(np.complex64))
        np.testing.assert_allclose(found.data[:, coil][..., [3, 5]], alone[..., [3, 5]], atol=1e-4)
        if found.is_of_image:
            scan = full.apply(coil_images()[:, coil].astype(np.complex64))
            np.testing.assert_allclose(found.data[:, coil][..., [0, 2, 4]], scan[..., [0, 2, 4]], atol=1e-4)


def test_calibration_lines_follow_the_image_in_orientation_and_oversampling(tmp_path):
    images = coil_images((2, 2, 16, 7))
    acquisitions = lines_of(centred(images), [0, 2, 4, 6])
    acquisitions += lines_of(centred(images), flags=[ismrmrd.ACQ_IS_PARALLEL_CALIBRATION])
    xml = header((16, 7, 1), (8, 7, 1), mode="separate")
    loaded = load_kspace(write(tmp_path / "a.mrd", xml, acquisitions), orientation="SLA")
    spectra = np.fft.ifftshift(loaded.calibration.data, axes=(-2, -1))
    np.testing.assert_allclose(np.fft.ifft2(spectra), images[:, :, 4:12][:, :, ::-1], rtol=1e-4)
    assert loaded.calibration.mask.all()


def test_calibration_lines_of_partitions_need_be_in_the_middle_alone(tmp_path):
    images = coil_images((6, 2, 8, 7))
    samples = centred(images, axes=(0, 2, 3))
    acquisitions = [readout(samples[k, :, :, line], line, partition=k) for line in (1, 3, 5) for k in range(6)]
    acquisitions += [
        readout(samples[k, :, :, line], line, partition=k, flags=[ismrmrd.ACQ_IS_PARALLEL_CALIBRATION])
        for line in range(2, 5)
        for k in range(2, 5)
    ]
    loaded = load_kspace(write(tmp_path / "a.mrd", header((8, 7, 6), mode="separate"), acquisitions), orientation="SRA")
    np.testing.assert_array_equal(loaded.calibration.mask[0], [0, 0, 1, 1, 1, 0, 0])
    assert loaded.calibration.data.shape == loaded.data.shape


def test_calibration_lines_of_another_grid_are_left_out_with_a_warning(tmp_path, caplog):
    samples = centred(coil_images())
    acquisitions = lines_of(samples, [0, 2, 3, 4, 6])
    acquisitions += lines_of(samples[:, :1], [5], flags=[ismrmrd.ACQ_IS_PARALLEL_CALIBRATION])
    loaded = load_kspace(write(tmp_path / "a.mrd", header((8, 7, 1), mode="separate"), acquisitions))
    assert loaded.calibration is None
    assert "calibration lines of another grid than the image's are left out" in caplog.text


def test_the_centre_of_the_limits_places_lines(tmp_path):
    samples = centred(coil_images())
    acquisitions = lines_of(samples[:, :, :, 2:])  # partial Fourier: counts from 0 at line 2
    loaded = load_kspace(
        write(tmp_path / "a.mrd", header((8, 7, 1), centres=(1, None)), acquisitions), orientation="SRA"
    )
    np.testing.assert_array_equal(loaded.mask, np.tile(np.arange(7) >= 2, (8, 1)))
    expected = MaskedFourier(loaded.mask, np.complex64).apply(coil_images()[:, 0].astype(np.complex64))
    np.testing.assert_allclose(loaded.data[:, 0], expected, atol=1e-4)


def test_partial_echoes_are_placed_by_their_centre(tmp_path):
    samples = centred(coil_images())
    acquisitions = lines_of(samples[:, :, 3:], center_sample=1)
    loaded = load_kspace(write(tmp_path / "a.mrd", header((8, 7, 1)), acquisitions), orientation="SRA")
    np.testing.assert_array_equal(loaded.mask, np.tile((np.arange(8) >= 3)[:, None], (1, 7)))
    expected = MaskedFourier(loaded.mask, np.complex64).apply(coil_images()[:, 1].astype(np.complex64))
    np.testing.assert_allclose(loaded.data[:, 1], expected, atol=1e-4)


def test_samples_to_discard_are_discarded(tmp_path):
    samples = centred(coil_images())
    longer = np.concatenate([np.full_like(samples[:, :, :2], 99), samples, samples[:, :, :1] * 99], axis=2)
    acquisitions = lines_of(longer, center_sample=6, discard_pre=2, discard_post=1)
    loaded = load_kspace(write(tmp_path / "a.mrd", header((8, 7, 1)), acquisitions), orientation="SRA")
    np.testing.assert_allclose(images_of(loaded), coil_images(), rtol=1e-4)


def test_whole_readouts_without_a_centre_are_centred(tmp_path):
    acquisitions = lines_of(centred(coil_images()), center_sample=0)
    loaded = load_kspace(write(tmp_path / "a.mrd", header((8, 7, 1)), acquisitions), orientation="SRA")
    np.testing.assert_allclose(images_of(loaded), coil_images(), rtol=1e-4)


def test_readout_oversampling_is_removed(tmp_path):
    images = coil_images((2, 2, 16, 7))
    xml = header((16, 7, 1), (8, 7, 1))
    loaded = load_kspace(write(tmp_path / "a.mrd", xml, lines_of(centred(images))), orientation="SRA")
    np.testing.assert_allclose(images_of(loaded), images[:, :, 4:12], rtol=1e-4)


@pytest.mark.parametrize("n", [4, 5])
def test_partitions_become_slices(tmp_path, n):
    images = coil_images((n, 2, 8, 7))
    samples = centred(images, axes=(0, 2, 3))
    lines = [1, 2, 3, 6]
    acquisitions = [
        readout(samples[partition, :, :, line], line, partition=partition) for line in lines for partition in range(n)
    ]
    xml = header((8, 7, n), (8, 7, n - 2), (8, 7, 3.0 * n), (8, 7, 3.0 * (n - 2)))
    loaded = load_kspace(write(tmp_path / "a.mrd", xml, acquisitions), orientation="SRA")
    start = n // 2 - (n - 2) // 2
    inner = images[start : start + n - 2, 0].astype(np.complex64)
    np.testing.assert_allclose(loaded.data[:, 0], MaskedFourier(loaded.mask, np.complex64).apply(inner), atol=1e-4)
    np.testing.assert_allclose(loaded.affine @ [4, 3, (n - 2) // 2, 1], [0, 0, 0, 1], atol=1e-6)


def test_partitions_that_are_missing_are_refused(tmp_path):
    samples = centred(coil_images((4, 2, 8, 7)), axes=(0, 2, 3))
    acquisitions = [
        readout(samples[k, :, :, line], line, partition=k) for line in range(7) for k in range(4) if (line, k) != (2, 3)
    ]
    with refused() as caught:
        load_kspace(write(tmp_path / "a.mrd", header((8, 7, 4)), acquisitions))
    assert "partition 3" in str(caught.value)


def turned():
    """Perpendicular axes that lie along none of the patient's."""
    a, b = np.deg2rad([20, 35])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return about_z @ about_x


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_geometry_places_every_voxel(tmp_path, order, signs):
    # Rows: slice, readout and phase directions, in LPS.
    directions = np.array([turned()[:, axis] * sign for axis, sign in zip(order, signs, strict=True)])
    images, middle, step = coil_images((3, 1, 8, 7)), np.array([10.0, -20, 30]), 4.5
    samples = centred(images)
    # Slices are counted backwards.
    acquisitions = [
        readout(
            samples[s, :, :, line],
            line,
            counters={"slice": 2 - s},
            directions=directions,
            position=middle + s * step * directions[0],
        )
        for line in range(7)
        for s in range(3)
    ]
    xml = header((8, 7, 1), encoded_mm=(16, 21, 3))
    loaded = load_kspace(write(tmp_path / "a.mrd", xml, acquisitions))
    volume = loaded.plane.volume_of(loaded.zero_filled())
    assert (np.diag(loaded.affine)[:3] > 0).all()
    for s, row, column in ((0, 4, 3), (2, 0, 0), (1, 7, 2)):
        lps = middle + directions.T @ [s * step, (row - 4) * 2, (column - 3) * 3]
        ras = [-lps[0], -lps[1], lps[2], 1]
        index = np.linalg.solve(loaded.affine, ras)[:3]
        np.testing.assert_allclose(index, index.round(), atol=1e-4)
        assert volume[tuple(index.round().astype(int))] == pytest.approx(abs(images[s, 0, row, column]), rel=1e-4)


def refuse(path, acquisitions, xml=None):
    with refused() as caught:
        load_kspace(write(path, xml or header((8, 7, 1)), acquisitions))
    return str(caught.value)


def test_slabs_have_their_middle_at_their_position(tmp_path):
    samples = centred(coil_images((4, 2, 8, 7)), axes=(0, 2, 3))
    acquisitions = [
        readout(samples[k, :, :, line], line, partition=k, directions=np.eye(3)[[2, 0, 1]], position=(1, 2, 3))
        for line in range(7)
        for k in range(4)
    ]
    loaded = load_kspace(write(tmp_path / "a.mrd", header((8, 7, 4)), acquisitions))
    index = np.linalg.solve(loaded.affine, [-1, -2, 3, 1])
    # LPS runs against x and y.
    np.testing.assert_allclose(index[:3], [8 - 1 - 4, 7 - 1 - 3, 2], atol=1e-5)


def test_slices_sampled_differently_are_refused_by_number(tmp_path):
    acquisitions = [a for a in lines_of(centred(coil_images())) if (a.idx.slice, a.idx.kspace_encode_step_1) != (2, 3)]
    assert "slice 2" in refuse(tmp_path / "a.mrd", acquisitions)


@pytest.mark.parametrize("trajectory", ["radial", "spiral", "epi", "other"])
def test_other_trajectories_are_refused(tmp_path, trajectory):
    xml = header((8, 7, 1), trajectory=trajectory)
    assert trajectory in refuse(tmp_path / "a.mrd", lines_of(centred(coil_images())), xml)


def test_what_does_not_belong_is_refused(tmp_path):
    samples = centred(coil_images())
    line = samples[0, :, :, 0]
    for what, extra in {
        "twice": readout(line, 3, counters={"slice": 1}),
        "line 7": readout(line, 7),
        "one encoding": readout(line, 3, encoding_space_ref=1),
        "one direction": readout(line, 3, flags=[ismrmrd.ACQ_IS_REVERSE]),
        "channels": readout(line[:1], 3, counters={"average": 1}),
        "samples 0 to 15": readout(np.tile(line, 2), 3, center_sample=4, counters={"average": 1}),
        "partition 1": readout(line, 3, partition=1),
    }.items():
        assert what in refuse(tmp_path / "a.mrd", [*lines_of(samples), extra])
    assert "none" in refuse(tmp_path / "a.mrd", [readout(line, 3, flags=[ismrmrd.ACQ_IS_NOISE_MEASUREMENT])])
    assert "slabs" in refuse(tmp_path / "a.mrd", lines_of(samples), header((8, 7, 2)))


@pytest.mark.parametrize(
    ("directions", "step"),
    [
        (np.eye(3) * 2, (0, 0, 1)),
        (np.ones((3, 3)), (0, 0, 1)),
        (np.full((3, 3), np.nan), (0, 0, 1)),
        (np.eye(3), (0, 1, 0)),
        (np.eye(3), (np.inf, 0, 0)),
    ],
)
def test_directions_and_positions_that_place_nothing_are_refused(tmp_path, directions, step):
    acquisitions = lines_of(centred(coil_images()), directions=directions)
    for one in acquisitions:
        one.position[:] = [one.idx.slice * s if s else 0 for s in step]
    refuse(tmp_path / "a.mrd", acquisitions)


def test_slices_at_unequal_distances_or_angles_are_refused(tmp_path):
    acquisitions = lines_of(centred(coil_images()), directions=np.eye(3)[[2, 0, 1]])
    for one in acquisitions:
        one.position[2] = (0, 1, 2.5)[one.idx.slice]
    assert "equal distances" in refuse(tmp_path / "a.mrd", acquisitions)
    acquisitions[-1].slice_dir[:] = (1, 0, 0)
    assert "parallel" in refuse(tmp_path / "a.mrd", acquisitions)


def test_gaps_in_the_count_of_slices_need_a_position(tmp_path):
    acquisitions = [one for one in lines_of(centred(coil_images())) if one.idx.slice != 1]
    assert "without gaps" in refuse(tmp_path / "a.mrd", acquisitions)


def test_a_matrix_that_the_samples_do_not_fill_is_refused(tmp_path):
    acquisitions = lines_of(centred(coil_images()))
    assert "split the scan" in refuse(tmp_path / "a.mrd", acquisitions, header((8, 6000, 1), centres=(3, None)))


def test_one_of_several_groups_is_chosen_by_its_name(tmp_path):
    images = coil_images()
    for name, seed in (("noise and all", 1), ("scan.2", 0)):
        with ismrmrd.Dataset(str(tmp_path / "a.h5"), name) as file:
            file.write_xml_header(header((8, 7, 1)))
            for one in lines_of(centred(coil_images(seed=seed))):
                file.append_acquisition(one)
    with one_sentence("kspace", "2 (noise and all, scan.2)", "--dataset"):
        load_kspace(tmp_path / "a.h5")
    for name in ("scan.2", "/scan.2"):
        loaded = load_kspace(tmp_path / "a.h5", orientation="SRA", how=KSpaceReading(dataset=name))
        np.testing.assert_allclose(images_of(loaded), images, rtol=1e-4)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["noise and all"]
    np.testing.assert_allclose(images_of(load_kspace(tmp_path / "a.h5", orientation="SRA")), images, rtol=1e-4)
    with one_sentence("kspace", "'scan.1' among scan.2"):
        load_kspace(tmp_path / "a.h5", how=KSpaceReading(dataset="scan.1"))


def of_images(**numbers):
    """Acquisitions of an image of its own for every combination of counters, and the images by these."""
    names, acquisitions, images = list(numbers), [], {}
    for seed, values in enumerate(product(*numbers.values())):
        images[values] = coil_images(seed=seed)
        for one in lines_of(centred(images[values])):
            for name, value in zip(names, values, strict=True):
                setattr(one.idx, name, value)
            acquisitions.append(one)
    return acquisitions, images


@pytest.mark.parametrize("name", ["contrast", "phase", "repetition", "set"])
def test_one_of_several_images_is_chosen(tmp_path, name):
    acquisitions, images = of_images(**{name: (0, 1, 2)})
    path = write(tmp_path / "a.mrd", header((8, 7, 1)), acquisitions)
    with one_sentence("kspace", "one image", f"{name} 0 to 2", f"--select {name}=0"):
        load_kspace(path)
    for (number,), expected in images.items():
        how = KSpaceReading(select=(f"{name}={number}",))
        np.testing.assert_allclose(images_of(load_kspace(path, orientation="SRA", how=how)), expected, rtol=1e-4)
    with one_sentence("select", f"{name} 0 to 2 in", f"got {name}=3"):
        load_kspace(path, how=KSpaceReading(select=(f"{name}=3",)))


def test_all_that_has_to_be_chosen_is_said_at_once(tmp_path):
    acquisitions, images = of_images(contrast=(0, 4), set=(1, 2, 3))
    path = write(tmp_path / "a.mrd", header((8, 7, 1)), acquisitions)
    with one_sentence("kspace", "contrast 0, 4 and set 1 to 3", "--select contrast=0,set=1"):
        load_kspace(path)
    with one_sentence("kspace", "got set 1 to 3 in", "--select set=1"):
        load_kspace(path, how=KSpaceReading(select=("contrast=4",)))
    loaded = load_kspace(path, orientation="SRA", how=KSpaceReading(select=("set=2", "contrast=4")))
    np.testing.assert_allclose(images_of(loaded), images[4, 2], rtol=1e-4)


def test_averages_are_averaged_or_taken_alone(tmp_path):
    acquisitions, images = of_images(average=(0, 1))
    path = write(tmp_path / "a.mrd", header((8, 7, 1)), acquisitions)
    mean = (images[0,] + images[1,]) / 2
    np.testing.assert_allclose(images_of(load_kspace(path, orientation="SRA")), mean, rtol=1e-4)
    loaded = load_kspace(path, orientation="SRA", how=KSpaceReading(select=("average=1",)))
    np.testing.assert_allclose(images_of(loaded), images[1,], rtol=1e-4)


@pytest.mark.parametrize("has_own", [True, False])
def test_calibration_lines_are_those_of_the_chosen_image(tmp_path, has_own):
    acquisitions, images = of_images(contrast=(0, 1))
    for contrast in (0, 1) if has_own else (0,):
        for one in lines_of(centred(images[contrast,]), flags=[ismrmrd.ACQ_IS_PARALLEL_CALIBRATION]):
            one.idx.contrast = contrast
            acquisitions.append(one)
    path = write(tmp_path / "a.mrd", header((8, 7, 1), mode="separate"), acquisitions)
    loaded = load_kspace(path, orientation="SRA", how=KSpaceReading(select=("contrast=1",)))
    np.testing.assert_allclose(images_of(loaded), images[1,], rtol=1e-4)
    np.testing.assert_allclose(images_of(loaded.calibration), images[int(has_own),], rtol=1e-4)


@pytest.mark.parametrize("word", ["contrast", "contrast=", "contrast=-1", "contrast=x", "slice=1", "", "set=123456"])
def test_choices_that_are_none_are_refused(tmp_path, word):
    path = write(tmp_path / "a.mrd", header((8, 7, 1)), lines_of(centred(coil_images())))
    for select in ((word,), ("set=0", "set=0")):
        with one_sentence("select", "contrast=1,repetition=0"):
            load_kspace(path, how=KSpaceReading(select=select))


def test_other_formats_have_nothing_to_choose(tmp_path):
    np.save(tmp_path / "k.npy", centred(coil_images()))
    with h5py.File(tmp_path / "k.h5", "w") as file:
        file["kspace"] = centred(coil_images()).astype(np.complex64)
    for name, axes in (("k.npy", ("slices", "coils", "rows", "columns")), ("k.h5", ())):
        with one_sentence("select", "ISMRMRD"):
            load_kspace(tmp_path / name, how=KSpaceReading(axes=axes, select=("contrast=0",)))
