"""Noise belongs to voxels of the volume, whatever plane is at work; a replay gives back what was recorded."""

from __future__ import annotations

from itertools import combinations, permutations, product

import numpy as np
import pytest

from engine.operators import ThickSlices
from engine.sampling.noise import CounterNoise, Phase, ReplayNoise
from engine.volume import Plane
from kernels import NoiseKey, philox_normal

SHAPE = (6, 7, 9)
STORED = Plane((0, 1, 2))
N_VOXELS = int(np.prod(SHAPE))


@pytest.mark.parametrize("axes", list(permutations((0, 1, 2))))
@pytest.mark.parametrize("phase", list(Phase))
def test_a_voxel_has_the_same_noise_in_every_plane(axes, phase):
    noise, plane = CounterNoise(5), Plane(axes)
    draw = noise.draw(3, phase, plane, SHAPE)
    assert draw.shape == plane.shape_of(SHAPE)
    assert draw.dtype == np.float32
    assert draw.flags.c_contiguous
    np.testing.assert_array_equal(plane.volume_of(draw), noise.draw(3, phase, STORED, SHAPE))


@pytest.mark.parametrize("axes", list(permutations((0, 1, 2))))
def test_a_draw_is_the_volumes(xp, to_numpy, axes):
    plane = Plane(axes)
    draw = CounterNoise(5).draw(3, Phase.CORRECTOR, plane, SHAPE, library=xp)
    assert isinstance(draw, xp.ndarray)
    np.testing.assert_array_equal(to_numpy(draw), plane.slices_of(philox_normal(5, 3, 0, SHAPE)))


@pytest.mark.parametrize("axes", list(permutations((0, 1, 2))))
@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_entries_of_a_draw_are_those_of_the_whole(xp, to_numpy, axes, axis, factor):
    """Thick slices: the first of every block, without what fills none."""
    noise, plane = CounterNoise(5), Plane(axes)
    thick = ThickSlices(plane.shape_of(SHAPE)[1:], factor, axis)
    whole = noise.draw(3, Phase.CORRECTOR_MEASUREMENT, plane, SHAPE)
    entries = thick.first_entries
    drawn = noise.draw(3, Phase.CORRECTOR_MEASUREMENT, plane, SHAPE, entries, xp)
    assert drawn.shape == (len(whole), *thick.data_shape)
    np.testing.assert_array_equal(to_numpy(drawn), whole[thick.first_entries])
    replayed = ReplayNoise(whole, whole[None, None].repeat(3, axis=1))
    got = replayed.draw(0, Phase.CORRECTOR_MEASUREMENT, plane, SHAPE, entries)
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, whole[thick.first_entries])


def test_counter_noise_is_a_key_and_a_record_an_array():
    plane = Plane((2, 0, 1))
    key = CounterNoise(5).source(3, Phase.PREDICTOR, plane, SHAPE)
    assert key == NoiseKey(5, 3, 1, (1, 63, 9))
    entries = (slice(1, None), slice(None), slice(2, None, 3))
    assert CounterNoise(5).source(3, Phase.PREDICTOR, plane, SHAPE, entries) == NoiseKey(5, 3, 1, (1, 63, 27), 19)
    record = np.ones((9, 6, 7))
    assert isinstance(ReplayNoise(record, record[None, None]).source(0, Phase.CORRECTOR, plane, SHAPE), np.ndarray)


def test_seeds_steps_and_phases_have_noise_of_their_own():
    draws = {
        (seed, step, phase): CounterNoise(seed).draw(step, phase, STORED, SHAPE)
        for seed, step, phase in product((0, 1), (0, 1), Phase)
    }
    for one, other in combinations(draws, 2):
        # Independent normals: their mean product is normal of width 1/√n; six widths hold for all 190 pairs.
        assert abs(np.mean(draws[one] * draws[other])) < 6 / np.sqrt(N_VOXELS), (one, other)


def test_a_draw_is_repeatable_and_standard_normal():
    shape = (24, 25, 26)
    draw = CounterNoise(1).draw(7, Phase.START, STORED, shape)
    np.testing.assert_array_equal(draw, CounterNoise(1).draw(7, Phase.START, STORED, shape))
    n = draw.size
    # Five standard deviations of the sample mean and of the sample variance.
    assert abs(draw.mean(dtype=np.float64)) < 5 / np.sqrt(n)
    assert abs(draw.var(dtype=np.float64) - 1) < 5 * np.sqrt(2 / n)


@pytest.fixture
def recorded():
    generator = np.random.default_rng(0)
    # Step 0 works in the primary plane, step 1 in another: a cube, as a stack of both must be.
    return generator.standard_normal((4, 4, 4)), generator.standard_normal((2, 2, 4, 4, 4))


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0)])
def test_replay_returns_the_record_in_the_layout_it_was_made_in(recorded, axes):
    start, steps = recorded
    noise, plane = ReplayNoise(start, steps), Plane(axes)
    for step, phase in product((0, 1), (Phase.CORRECTOR, Phase.PREDICTOR)):
        draw = noise.draw(step, phase, plane, (4, 4, 4))
        assert draw.dtype == np.float32
        assert draw.flags.c_contiguous
        np.testing.assert_array_equal(draw, steps[step, int(phase)].astype(np.float32))
    np.testing.assert_array_equal(noise.draw(0, Phase.START, plane, (4, 4, 4)), start.astype(np.float32))


@pytest.mark.parametrize("phase", [Phase.START, Phase.CORRECTOR])
def test_replay_refuses_a_volume_of_another_shape(recorded, phase):
    with pytest.raises(ValueError, match=r"^recorded noise: expected \(4, 4, 5\), got \(4, 4, 4\)"):
        ReplayNoise(*recorded).draw(0, phase, STORED, (4, 4, 5))
