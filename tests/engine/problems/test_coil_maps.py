"""Coil sensitivities: estimated ones explain the data, given ones follow the samples, simulated ones are normalised."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from itertools import permutations, product

import h5py
import numpy as np
import pytest

from engine.io.measurements.fastmri import save_fastmri
from engine.io.measurements.kspace import KSpace, load_kspace
from engine.io.measurements.kspace_axes import Calibration
from engine.operators import CoilFourier
from engine.operators.proximal import ConjugateGradients
from engine.problems.acquisition import of_kspace
from engine.problems.coil_maps import espirit, load_maps, simulated
from engine.volume import Plane
from tests.refusals import one_sentence

needs_sigpy = pytest.mark.skipif(find_spec("sigpy") is None, reason="sigpy is in the extra `mri`")
ORIENTATIONS = ["".join(letters) for axes in permutations(("RL", "AP", "SI")) for letters in product(*axes)]
POSITIVE = {"L": "R", "P": "A", "I": "S"}


def refused(name="coil-maps"):
    return one_sentence(name)


def some_maps(shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def centred(images):
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images, axes=axes), norm="ortho"), axes=axes)


def header(encoded, recon, n_partitions=(1, 1)):
    """Of pixels of 1 mm: rows and columns as encoded and as reconstructed, and the partitions of both."""

    def space(name, rows, columns, n):
        return (
            f"<{name}><matrixSize><x>{rows}</x><y>{columns}</y><z>{n}</z></matrixSize>"
            f"<fieldOfView_mm><x>{rows}</x><y>{columns}</y><z>{n}</z></fieldOfView_mm></{name}>"
        )

    return (
        '<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">'
        "<experimentalConditions><H1resonanceFrequency_Hz>1</H1resonanceFrequency_Hz></experimentalConditions>"
        f"<encoding>{space('encodedSpace', *encoded, n_partitions[0])}{space('reconSpace', *recon, n_partitions[1])}"
        "<encodingLimits></encodingLimits><trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"
    )


def write_scan(path, images, maps, mask=None, xml=None):
    with h5py.File(path, "w") as file:
        samples = centred(images[:, None] * maps)
        file["kspace"] = (samples if mask is None else samples * mask).astype(np.complex64)
        if mask is not None:
            file["mask"] = mask
        if xml is not None:
            file["ismrmrd_header"] = xml
    return path


# --- given maps


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("n_over", [6, 11])
def test_given_maps_are_reoriented_as_the_samples_are(tmp_path, orientation, n_over):
    """The canonical image, under the loaded maps, is what was measured: with readout oversampling and without it."""
    rows, columns, n_slices = 6, 7, 4
    first = n_over // 2 - rows // 2
    inner = slice(first, first + rows)
    axes = [{"R": 0, "A": 1, "S": 2}[POSITIVE.get(letter, letter)] for letter in orientation]
    flips = tuple(slice(None, None, -1 if letter in POSITIVE else 1) for letter in orientation)
    images = np.random.default_rng(1).random((n_slices, n_over, columns)) + 0.5
    volume = images[:, inner][flips].transpose(np.argsort(axes))
    maps = some_maps((n_slices, 3, n_over, columns))
    mask = np.array([1, 0, 1, 1, 1, 0, 1], np.float32)
    xml = header((n_over, columns), (rows, columns))
    kspace = load_kspace(write_scan(tmp_path / "a.h5", images, maps, mask, xml), orientation=orientation)
    expected = kspace.data
    for given in (maps, maps[:, :, inner]):
        np.save(tmp_path / "maps.npy", given)
        loaded = load_maps(tmp_path / "maps.npy", kspace)
        assert loaded.dtype == np.complex64
        assert loaded.flags.c_contiguous
        found = CoilFourier(kspace.mask, loaded).apply(kspace.plane.slices_of(volume.astype(np.float32)))
        assert abs(found - expected).max() < 1e-5 * abs(expected).max()


def test_maps_of_hdf5_and_of_other_types_are_the_same(tmp_path):
    maps = some_maps((2, 3, 6, 8))
    kspace = load_kspace(write_scan(tmp_path / "a.h5", np.ones((2, 6, 8)), maps), orientation="SAL")
    np.save(tmp_path / "maps.npy", maps)
    expected = load_maps(tmp_path / "maps.npy", kspace)
    assert expected.shape == kspace.data.shape
    np.save(tmp_path / "double.npy", maps.astype(np.complex128))
    for name, how in (("maps.h5", {}), ("maps.hdf5", {"compression": "gzip"})):
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("maps", data=maps, **how)
    for name in ("double.npy", "maps.h5", "maps.hdf5"):
        np.testing.assert_array_equal(load_maps(tmp_path / name, kspace), expected)


def test_maps_of_a_scan_of_our_own_lie_as_its_samples(tmp_path):
    maps = some_maps((3, 2, 6, 9))
    image = np.random.default_rng(0).random((3, 6, 9), np.float32)
    mask = np.ones((6, 9), np.float32)
    for axes in permutations(range(3)):
        data = CoilFourier(mask, maps).apply(image)
        save_fastmri(tmp_path / "a.h5", KSpace(data, mask, Plane(axes), np.eye(4), ((0, 6), (0, 9)), ""))
        np.save(tmp_path / "maps.npy", maps)
        kspace = load_kspace(tmp_path / "a.h5")
        volume = Plane(axes).volume_of(image)
        loaded = load_maps(tmp_path / "maps.npy", kspace)
        found = CoilFourier(kspace.mask, loaded).apply(kspace.plane.slices_of(volume))
        assert abs(found - kspace.data).max() < 1e-5 * abs(data).max()


def acquisitions(samples, ismrmrd, *, is_slab, order=None):
    """Every readout of (slices or partitions, coils, readout, phase encoding); slice n at position order[n]."""
    found = []
    for n, line in product(range(len(samples)), range(samples.shape[3])):
        one = ismrmrd.Acquisition.from_array(np.ascontiguousarray(samples[n, :, :, line], np.complex64))
        one.idx.kspace_encode_step_1, one.center_sample = line, samples.shape[2] // 2
        if is_slab:
            one.idx.kspace_encode_step_2 = n
        else:
            one.idx.slice = n
            one.read_dir[:], one.phase_dir[:], one.slice_dir[:] = np.eye(3)
            one.position[:] = (0, 0, order[n])
        found.append(one)
    return found


def write_ismrmrd(path, ismrmrd, xml, lines):
    with ismrmrd.Dataset(str(path)) as file:
        file.write_xml_header(xml)
        for one in lines:
            file.append_acquisition(one)
    return path


def test_maps_of_slices_are_sorted_as_their_positions(tmp_path):
    ismrmrd = pytest.importorskip("ismrmrd", reason="the package of the format is in the extra `mri`")
    maps, images = some_maps((3, 2, 8, 7)), np.random.default_rng(0).random((3, 8, 7))
    # Interleaved: the second slice in number is the last in space.
    order = [0, 2, 1]
    lines = acquisitions(centred(images[:, None] * maps), ismrmrd, is_slab=False, order=order)
    kspace = load_kspace(write_ismrmrd(tmp_path / "a.h5", ismrmrd, header((8, 7), (8, 7)), lines))
    np.save(tmp_path / "maps.npy", maps)
    # LPS: readout and phase encoding run against the axes of the volume.
    canonical = images[order][:, ::-1, ::-1].astype(np.float32)
    found = CoilFourier(kspace.mask, load_maps(tmp_path / "maps.npy", kspace)).apply(canonical)
    assert abs(found - kspace.data).max() < 1e-5 * abs(found).max()


@pytest.mark.parametrize("n", [6, 7])
def test_maps_of_partitions_lose_what_the_slab_loses(tmp_path, n):
    ismrmrd = pytest.importorskip("ismrmrd", reason="the package of the format is in the extra `mri`")
    maps, images = some_maps((n, 2, 8, 7)), np.random.default_rng(0).random((n, 8, 7))
    samples = centred(images[:, None] * maps)
    samples = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(samples, axes=0), axis=0, norm="ortho"), axes=0)
    xml = header((8, 7), (8, 7), (n, 4))
    path = write_ismrmrd(tmp_path / "a.h5", ismrmrd, xml, acquisitions(samples, ismrmrd, is_slab=True))
    kspace = load_kspace(path, orientation="SRA")
    inner = slice(n // 2 - 2, n // 2 + 2)
    for given in (maps, maps[inner]):
        np.save(tmp_path / "maps.npy", given)
        found = CoilFourier(kspace.mask, load_maps(tmp_path / "maps.npy", kspace)).apply(images[inner].astype("f4"))
        assert abs(found - kspace.data).max() < 1e-5 * abs(found).max()


@pytest.fixture
def kspace(tmp_path):
    return load_kspace(write_scan(tmp_path / "a.h5", np.ones((2, 6, 8)), some_maps((2, 3, 6, 8))))


@pytest.mark.parametrize(
    "maps",
    [
        some_maps((2, 3, 8, 6)),
        some_maps((2, 4, 6, 8)),
        some_maps((3, 6, 8)),
        np.ones((2, 3, 6, 8)),
        np.zeros((2, 3, 6, 8), np.complex64),
        np.full((2, 3, 6, 8), np.nan + 0j),
        np.full((2, 3, 6, 8), 1e300 + 0j),
    ],
    ids=["swapped", "coils", "rank", "real", "zero", "nan", "too large"],
)
def test_maps_that_do_not_fit_are_refused(tmp_path, kspace, maps):
    np.save(tmp_path / "maps.npy", maps)
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        file["maps"] = maps
    for name in ("maps.npy", "maps.h5"):
        with refused():
            load_maps(tmp_path / name, kspace)


@pytest.mark.parametrize(
    ("shape", "word"),
    [
        ((3, 2, 6, 8), "maps.transpose((1, 0, 2, 3))"),
        ((6, 8, 2, 3), "maps.transpose((2, 3, 0, 1))"),
        ((2, 4, 6, 8), "maps of 4 coils for 3 channels"),
        ((5, 3, 6, 8), "5 slices"),
        ((2, 3, 12, 16), "images of 12 x 16"),
        ((2, 6, 8), "3 axes"),
    ],
)
def test_what_does_not_fit_of_maps_is_said(tmp_path, kspace, shape, word):
    assert kspace.file_grid.shapes(3)[0] == (2, 3, 6, 8)
    np.save(tmp_path / "maps.npy", some_maps(shape))
    with one_sentence("coil-maps", word):
        load_maps(tmp_path / "maps.npy", kspace)


def test_files_that_hold_no_maps_are_refused(tmp_path, kspace):
    np.save(tmp_path / "short.npy", some_maps((2, 3, 6, 8)))
    (tmp_path / "short.npy").write_bytes((tmp_path / "short.npy").read_bytes()[:-8])
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    (tmp_path / "maps.mat").write_bytes(b"maps")
    (tmp_path / "noise.h5").write_bytes(b"noise")
    for name in ("short.npy", "objects.npy", "maps.mat", "noise.h5", "a.h5", "missing.npy"):
        with refused():
            load_maps(tmp_path / name, kspace)
    one = load_kspace(write_scan(tmp_path / "a.h5", np.ones((2, 6, 8)), some_maps((2, 1, 6, 8))))
    with refused() as caught:
        load_maps(tmp_path / "short.npy", one)
    assert "drop --coil-maps" in str(caught.value)


# --- simulated and estimated maps


@needs_sigpy
@pytest.mark.parametrize("orientation", ["SAR", "SPL", "SAL", "SPR", "IRP", "AIL"])
def test_an_even_number_of_calibration_lines_counts_whole_in_every_orientation(tmp_path, orientation):
    """Of 12 lines about zero, −6 to 5, a reversed axis makes −5 to 6: the same lines, and the same maps."""
    image, _ = phantom(1, 32, 32)
    true = simulated(4, image.shape)
    mask = np.zeros(32, np.float32)
    mask[::4], mask[10:22], mask[[9, 22]] = 1, 1, 0
    path = write_scan(tmp_path / "a.h5", image, true, mask)
    straight = load_kspace(path, orientation="SRA")
    expected = espirit(straight.data, straight.mask)
    kspace = load_kspace(path, orientation=orientation)
    maps = espirit(kspace.data, kspace.mask)
    np.save(tmp_path / "maps.npy", expected)
    # As maps on the file's grid, which lies straight, are brought to the samples.
    brought = load_maps(tmp_path / "maps.npy", kspace)
    seen = (abs(brought) ** 2).sum(1) > 0.5
    products = abs((maps * brought.conj()).sum(1))
    assert seen.mean() > 0.2
    # Up to the phase that all coils share.
    assert np.median(products[seen]) > 0.999


@needs_sigpy
@pytest.mark.parametrize("shape", [(1, 9, 12), (4, 8, 7)])
@pytest.mark.parametrize("n_coils", [1, 5, 9])
def test_simulated_maps_are_normalised_and_differ(n_coils, shape):
    maps = simulated(n_coils, shape)
    assert maps.shape == (shape[0], n_coils, *shape[1:])
    assert maps.dtype == np.complex64
    np.testing.assert_allclose((abs(maps) ** 2).sum(axis=1), 1, rtol=1e-5)
    flat = maps.swapaxes(0, 1).reshape(n_coils, -1)
    similar = abs(np.corrcoef(flat)) if n_coils > 1 else np.eye(1)
    assert (similar - np.eye(n_coils)).max() < 0.99


@pytest.mark.parametrize(("n_coils", "shape"), [(0, (2, 4, 4)), (2, (4, 4)), (2, (0, 4, 4)), (64, (2000, 2000, 2000))])
def test_simulations_of_no_coils_or_too_many_are_refused(n_coils, shape):
    with refused("coils"):
        simulated(n_coils, shape)


def phantom(n_slices=2, n=48, n_columns=44):
    """Discs in air, with another in them; of another size in every slice."""
    y, x = np.meshgrid(np.linspace(-1, 1, n), np.linspace(-1, 1, n_columns), indexing="ij")
    radius = np.linspace(0.6, 0.75, n_slices)[:, None, None]
    inside = x**2 + (y / 1.1) ** 2 < radius**2
    return (inside * (1 + 0.5 * ((x - 0.2) ** 2 + y**2 < 0.05))).astype(np.float32), inside


@needs_sigpy
@pytest.mark.parametrize("acceleration", [1, 3])
def test_estimated_maps_are_those_of_the_scan(acceleration):
    image, inside = phantom()
    true = simulated(4, image.shape)
    mask = np.zeros(image.shape[1:], np.float32)
    mask[:, ::acceleration] = 1
    mask[:, 10:34] = 1
    data = CoilFourier(mask, true).apply(image)
    maps = espirit(data, mask)
    assert maps.dtype == np.complex64
    assert maps.shape == true.shape
    sizes = (abs(maps) ** 2).sum(axis=1)
    np.testing.assert_allclose(sizes[sizes > 0.5], 1, rtol=1e-5)
    assert sizes[sizes <= 0.5].max(initial=0) == 0
    # Up to a phase that all coils share, inside the object; air shows nothing.
    alike = abs((maps.conj() * true).sum(axis=1))
    assert (alike[inside] > 0.99).mean() > 0.98
    assert (sizes[:, [0, 0, -1, -1], [0, -1, 0, -1]] == 0).all()
    # What the coils see passes through the maps.
    coils = image[:, None] * true
    seen = maps * (maps.conj() * coils).sum(axis=1, keepdims=True)
    assert np.linalg.norm(seen - coils) < 0.05 * np.linalg.norm(coils)


@needs_sigpy
def test_the_strongest_combination_of_coils_is_real():
    image, _ = phantom(1)
    mask = np.ones(image.shape[1:], np.float32)
    # Phases that make the first coil a poor reference.
    maps = simulated(4, image.shape) * np.exp(1j * np.arange(4))[:, None, None].astype(np.complex64)
    data = CoilFourier(mask, maps).apply(image)
    found = espirit(data, mask)[0]
    # By the centre of k-space that calibrates.
    inner = data[0, :, 12:36, 10:34].reshape(4, -1)
    strongest = np.linalg.svd(inner, full_matrices=False)[0][:, 0]
    combined = np.einsum("c,chw->hw", strongest.conj(), found)
    assert abs(combined.imag).max() < 1e-3
    assert combined.real.min() > -1e-3
    assert combined.real.max() > 0.9


@needs_sigpy
def test_empty_slices_and_dead_coils_have_no_maps():
    image, _ = phantom(3)
    image[1] = 0
    true = simulated(3, image.shape)
    true[:, 0] = 0
    mask = np.ones(image.shape[1:], np.float32)
    maps = espirit(CoilFourier(mask, true).apply(image), mask)
    assert np.isfinite(maps).all()
    assert not maps[1].any()
    assert abs(maps[:, 0]).max() < 1e-6
    assert maps[2, 1:].any()


@needs_sigpy
def test_units_do_not_matter():
    image, _ = phantom(1)
    mask = np.ones(image.shape[1:], np.float32)
    data = CoilFourier(mask, simulated(3, image.shape)).apply(image)
    for scale in (1e-12, 1e9):
        np.testing.assert_allclose(espirit(data * np.float32(scale), mask), espirit(data, mask), atol=1e-3)


def test_scans_without_a_centre_or_coils_are_refused():
    data = some_maps((1, 2, 32, 30))
    mask = np.ones((32, 30), np.float32)
    mask[:, 20] = 0
    with refused("mask") as caught:
        espirit(data, mask)
    assert "--coil-maps" in str(caught.value)
    for bad in (data[:, :1], data[0], data[..., :20]):
        with refused("kspace"):
            espirit(bad, np.ones((32, 30), np.float32))


def test_without_sigpy_there_is_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "sigpy", None)
    monkeypatch.setitem(sys.modules, "sigpy.mri", None)
    with refused() as caught:
        simulated(2, (1, 8, 8))
    assert "[mri]" in str(caught.value)
    with refused() as caught:
        espirit(some_maps((1, 2, 24, 24)), np.ones((24, 24), np.float32))
    assert "[mri]" in str(caught.value)


@needs_sigpy
@pytest.mark.parametrize("is_of_image", [True, False])
def test_calibration_lines_give_maps_that_the_scans_own_samples_cannot(is_of_image):
    """Every third line has no centre to calibrate from; with the lines of the coils' own a real volume is explained."""
    image, _ = phantom(1, 32, 32)
    true = simulated(4, image.shape)
    mask, centre_lines = np.zeros((32, 32), np.float32), np.zeros((32, 32), np.float32)
    mask[:, 1::3], centre_lines[:, 8:25] = 1, 1
    full = CoilFourier(np.ones((32, 32), np.float32), true).apply(image)
    grid = (Plane((2, 0, 1)), np.eye(4), ((0, 32), (0, 32)), "scan")
    alone = KSpace(full * mask, mask, *grid)
    with refused("mask"):
        of_kspace(alone)
    # Of another contrast: brighter, and turned.
    calibration = Calibration(full * centre_lines * (1 if is_of_image else 3j), centre_lines, is_of_image)
    problem = of_kspace(replace(alone, calibration=calibration)).problem(grid[0])
    operator, y = problem.measured()
    x, _ = ConjugateGradients(operator, y, 40)(np.zeros((1, 32, 32), np.complex64), 0.0)
    assert np.linalg.norm(operator.apply(x) - y) < 0.05 * np.linalg.norm(y)
    products = abs((operator.maps * true.conj()).sum(1))
    assert np.median(products[(abs(operator.maps) ** 2).sum(1) > 0.5]) > 0.999
