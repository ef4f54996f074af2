"""The four problems: what is measured, how a run starts, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.device import CPU
from engine.errors import InputError
from engine.operators import MaskedFourier, Radon, ThickSlices
from engine.problems.tasks import TASKS, Measurement, simulate
from engine.sampling.noise import ReplayNoise
from engine.sampling.problem import InverseProblem
from engine.sampling.reconstruction import start_of
from engine.sampling.settings import Settings
from engine.volume import Plane

AXIAL, CORONAL, SAGITTAL = Plane.parse("axial"), Plane.parse("coronal"), Plane.parse("sagittal")
SHAPE = (16, 16, 10)
HOW = Measurement(acceleration=2.0, factor=3, views=9, seed=4)


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return np.random.default_rng(0).random(SHAPE).astype(np.float32)


@pytest.fixture(scope="module")
def normal() -> np.ndarray:
    return np.random.default_rng(1).standard_normal(CORONAL.shape_of(SHAPE)).astype(np.float32)


def started(problem: InverseProblem, normal: np.ndarray, sigma_max: float) -> np.ndarray:
    """The published sampler's first state, in slices of the problem's plane."""
    settings = Settings(sampler="pc", sigma_min=0.01, sigma_max=sigma_max)
    return start_of(problem, settings, ReplayNoise(normal, np.zeros((0, 0))), CPU).data


def test_csmri_measures_part_of_k_space(volume):
    task = simulate("csmri", volume, AXIAL, HOW)
    assert isinstance(task.operator, MaskedFourier)
    sampled = task.operator.mask == 1
    k_space = np.fft.fftshift(np.fft.fft2(volume.transpose(2, 0, 1)), axes=(1, 2))
    # float32 at values of up to 256.
    np.testing.assert_allclose(task.measurement[:, sampled], k_space[:, sampled], atol=1e-4)
    assert not task.measurement[:, ~sampled].any()
    achieved = sampled.size / sampled.sum()
    assert task.details == {"acceleration": 2.0, "achieved_acceleration": pytest.approx(achieved), "mask_seed": 4}
    assert achieved == pytest.approx(2, rel=0.02)  # what the mask promises
    assert (task.residual_scale, task.renoise) == (1.0, False)


def test_csmri_mask_follows_the_seed(volume):
    masks = [simulate("csmri", volume, AXIAL, Measurement(2.0, seed=s)).operator.mask for s in (4, 4, 5)]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


@pytest.mark.parametrize(("plane", "thick_axis"), [(CORONAL, 2), (SAGITTAL, 2), (CORONAL, 0), (AXIAL, 1), (AXIAL, 0)])
def test_mrzsr_measures_means_along_the_thick_axis(volume, plane, thick_axis):
    task = simulate("mrzsr", volume, plane, Measurement(factor=3, thick_axis=thick_axis))
    n_blocks = SHAPE[thick_axis] // 3
    thick = np.stack([volume.take(range(3 * b, 3 * b + 3), thick_axis).mean(thick_axis) for b in range(n_blocks)])
    expected = np.moveaxis(thick, 0, thick_axis).transpose(plane.axes)
    np.testing.assert_allclose(task.measurement, expected, atol=1e-6)  # float32 means of values below one
    assert task.residual_scale == pytest.approx(np.sqrt(3))
    assert task.renoise
    assert task.details == {"factor": 3, "thick_axis": thick_axis}


@pytest.mark.parametrize(("profile", "gap"), [("gaussian", 0.0), ("gaussian", 1.0), ("box", 1.0)])
def test_other_profiles_are_measured_but_not_renoised(volume, normal, profile, gap):
    how = Measurement(factor=3, slice_profile=profile, gap=gap)
    task = simulate("mrzsr", volume, CORONAL, how)
    assert isinstance(task.operator, ThickSlices)
    assert (task.operator.profile, task.operator.gap, task.operator.n_covered) == (profile, gap, 9)
    plain = simulate("mrzsr", volume, CORONAL, Measurement(factor=3))
    assert np.abs(task.measurement - plain.measurement).max() > 0.01
    assert task.details == {"factor": 3, "thick_axis": 2, "slice_profile": profile, "gap": gap}
    # The published re-noising is that of block means; the weight of the residual is as published.
    assert not task.renoise
    assert task.residual_scale == plain.residual_scale
    np.testing.assert_array_equal(started(task, normal, 5.0), np.float32(5) * normal)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gap": -0.5}, r"^gap: expected 0 to less than the factor 4, got -0.5; "),
        ({"gap": 4.0}, r"^gap: expected 0 to less than the factor 4, got 4.0; "),
        ({"gap": float("nan")}, r"^gap: expected 0 to less than the factor 4, got nan; "),
        ({"slice_profile": "sinc"}, r"^slice-profile: expected one of box, gaussian, got 'sinc'; "),
    ],
)
def test_profiles_without_sense_are_refused(volume, options, message):
    with pytest.raises(InputError, match=message):
        simulate("mrzsr", volume, CORONAL, Measurement(**options))


def test_svct_measures_line_integrals(volume):
    task = simulate("svct", volume, AXIAL, HOW)
    assert isinstance(task.operator, Radon)
    assert task.operator.geometry.n_views == 9
    assert task.measurement.shape == (10, 9, task.operator.geometry.n_bins)
    # At angle 0 the lattice is the image's own: every view's sum is the sum of the slice, and its lines are columns'.
    columns = task.measurement[:, 0]
    np.testing.assert_allclose(columns.sum(axis=1), volume.sum(axis=(0, 1)), rtol=1e-5)
    assert (task.residual_scale, task.renoise, task.details) == (1.0, False, {"views": 9})


@pytest.mark.parametrize("plane", [AXIAL, CORONAL, SAGITTAL], ids=str)
def test_a_cone_beam_sees_the_whole_volume_from_any_plane(volume, plane):
    how = Measurement(beam="cone", views=9, noise=0.01)
    task, clean = (
        simulate("svct", volume, plane, how),
        simulate("svct", np.ones_like(volume), plane, replace(how, noise=0)),
    )
    assert (task.shape, task.is_of_slices, task.details["beam"], task.details["views"]) == (SHAPE, False, "cone", 9)
    seen = clean.operator.projections_of(clean.measurement)
    # Turned about the axial slices' middle, in every plane.
    axial = simulate("svct", np.ones_like(volume), AXIAL, replace(how, noise=0))
    np.testing.assert_array_equal(seen, axial.operator.projections_of(axial.measurement))
    assert task.operator.geometry.shape == AXIAL.shape_of(SHAPE)
    # Nothing passes the detector: its border sees no more than a corner of the volume.
    border = max(seen[:, [0, -1]].max(), seen[:, :, [0, -1]].max())
    assert border < 0.2 * seen.max()
    residual = task.operator.apply(plane.slices_of(volume)) - task.measurement
    assert residual.std() == pytest.approx(task.noise_level, rel=0.05)


def test_a_cone_beam_has_twice_the_views_of_a_parallel_one(volume):
    views = [simulate("svct", volume, AXIAL, Measurement(beam=beam)).details["views"] for beam in ("parallel", "cone")]
    assert views == [2, 4]


def test_uncond_measures_nothing(normal):
    task = simulate("uncond", None, CORONAL, HOW, SHAPE)
    assert task.operator is None
    assert task.measurement is None
    assert task.classical() is None
    np.testing.assert_array_equal(started(task, normal, 5.0), np.float32(5) * normal)


@pytest.mark.parametrize("name", ["csmri", "mrzsr", "svct"])
@pytest.mark.parametrize("plane", [AXIAL, CORONAL], ids=str)
def test_classical_reconstruction_has_the_volumes_layout(name, plane):
    cube = np.random.default_rng(2).random((16, 16, 16)).astype(np.float32)
    task = simulate(name, cube, plane, Measurement(2.0, 3, 1 if plane is AXIAL else 2, 9))
    shown = task.classical()
    assert (shown.shape, shown.dtype) == (cube.shape, np.float32)
    np.testing.assert_array_equal(plane.slices_of(shown), task.operator.classical(task.measurement))


@pytest.mark.parametrize("name", ["csmri", "svct"])
def test_kspace_and_ct_start_from_noise_alone(volume, name):
    normal = np.random.default_rng(1).standard_normal(AXIAL.shape_of(SHAPE)).astype(np.float32)
    task = simulate(name, volume, AXIAL, HOW)
    np.testing.assert_array_equal(started(task, normal, 5.0), np.float32(5) * normal)


@pytest.mark.parametrize("plane", [CORONAL, Plane((1, 2, 0))], ids=str)
def test_thick_slices_start_repeated_with_noise_in_all_but_each_blocks_first(volume, plane):
    sigma_max, factor = 5.0, 3  # ten thin slices: the last belongs to no thick one
    normal = np.random.default_rng(1).standard_normal(plane.shape_of(SHAPE)).astype(np.float32)
    task = simulate("mrzsr", volume, plane, Measurement(factor=factor))
    before = normal.copy()
    first_state = plane.volume_of(started(task, normal, sigma_max))
    np.testing.assert_array_equal(normal, before)
    z = plane.volume_of(normal)
    for i in range(SHAPE[2]):
        if i >= 9:
            np.testing.assert_array_equal(first_state[:, :, i], 0)
            continue
        first = i - i % factor
        expected = volume[:, :, first : first + factor].mean(axis=2)
        if i != first:
            expected = expected + sigma_max * z[:, :, i]
        np.testing.assert_allclose(first_state[:, :, i], expected, atol=1e-5)  # float32 at values of twenty
    assert isinstance(task.operator, ThickSlices)
    # The rest is not measured either: what a scanner would show ends with the last thick slice.
    np.testing.assert_array_equal(task.classical()[:, :, 9], task.classical()[:, :, 8])


@pytest.mark.parametrize("name", [t for t in TASKS if t != "uncond"])
def test_a_measurement_needs_a_volume(name):
    with pytest.raises(InputError, match=rf"^volume: expected one to measure for the task {name}, got none; "):
        simulate(name, None, AXIAL, HOW)


def test_planes_across_the_thick_axis_are_refused(volume):
    with pytest.raises(InputError, match=r"^primary: expected .* thick axis 2, got the plane axial.*; swap --primary"):
        simulate("mrzsr", volume, AXIAL, HOW)


@pytest.mark.parametrize("factor", [1, 0, -2, 11])
def test_factors_that_make_no_thick_slice_are_refused(volume, factor):
    with pytest.raises(InputError, match=rf"^factor: expected 2 to 10, got {factor}; "):
        simulate("mrzsr", volume, CORONAL, Measurement(factor=factor))


def test_one_thick_slice_of_everything_is_accepted(volume):
    task = simulate("mrzsr", volume, CORONAL, Measurement(factor=10))
    assert task.measurement.shape == (16, 16, 1)


@pytest.mark.parametrize("views", [0, -1, 100_001])
def test_numbers_of_views_without_sense_are_refused(volume, views):
    with pytest.raises(InputError, match=rf"^views: expected 1 to 100000, got {views}; "):
        simulate("svct", volume, AXIAL, Measurement(views=views))


def test_ct_takes_slices_that_are_not_square(volume):
    task = simulate("svct", volume, CORONAL, Measurement())
    # As sparse as published for the longer side.
    assert task.details == {"views": round(36 * 16 / 256)}
    assert task.operator.geometry.shape == (16, 16)
    assert task.classical().shape == SHAPE
    # At angle 0 lines are the slice's columns, x, with zeros beside them.
    lines = task.measurement[:, 0]
    columns = volume.transpose(1, 0, 2).sum(axis=1)
    for line, expected in zip(lines, columns, strict=True):
        np.testing.assert_allclose(line[np.flatnonzero(line)], expected, rtol=1e-5)


@pytest.mark.parametrize("acceleration", [0.5, 0.0, -1.0, float("nan")])
def test_accelerations_below_one_are_refused(volume, acceleration):
    with pytest.raises(InputError, match=r"^acceleration: expected .*, got .*; "):
        simulate("csmri", volume, AXIAL, Measurement(acceleration))
