"""The sampler with a denoiser whose posterior is known, against its formulas, and against a recorded run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.backends.bundle import Bundle
from engine.backends.native import NativeDenoiser
from engine.backends.onnx import OnnxDenoiser
from engine.operators import MaskedFourier, ThickSlices
from engine.parallel.stack import Stack
from engine.sampling.denoiser import CotangentOf, Denoiser
from engine.sampling.dps import Dps, block_noise
from engine.sampling.noise import CounterNoise, Noise, Phase, ReplayNoise
from engine.sampling.posterior_mean import PosteriorMean, Prior
from engine.sampling.predictor_corrector import PredictorCorrector
from engine.sampling.sampler import State
from engine.sampling.schedule import Schedule, plan_of
from engine.volume import Plane

AXIAL, CORONAL = Plane.parse("axial"), Plane.parse("coronal")


class Gaussian(Denoiser):
    """E[clean | noisy] for voxels that are independent normals of mean 0 and standard deviation s."""

    def __init__(self, s: float):
        self.s = s

    def _denoise(self, x, sigma):
        return np.float32(self.s**2 / (self.s**2 + sigma**2)) * x

    def _vjp(self, x, sigma, cotangent: CotangentOf):
        x0 = self._denoise(x, sigma)
        return x0, self._denoise(cotangent(x0, slice(0, len(x))), sigma)


def sampler_of(denoiser: Denoiser, schedule: Schedule, *, seed: int = 0, **options) -> PredictorCorrector:
    priors = (Prior(denoiser, AXIAL), Prior(denoiser, CORONAL))
    plan = plan_of(2, 2, schedule.n_steps, 0)
    posterior_mean = PosteriorMean(priors, plan, (0.5, 0.5), options.pop("dps", None))
    return PredictorCorrector(posterior_mean, schedule, options.pop("noise", None) or CounterNoise(seed), **options)


def run(sampler: PredictorCorrector, state: State) -> State:
    for _ in range(state.step, sampler.schedule.n_steps):
        state = sampler.step(state)
    return state


def start(shape: tuple[int, int, int], sigma_max: float, noise: Noise) -> State:
    normal = noise.draw(0, Phase.START, AXIAL, shape)
    return State(Stack(np.float32(sigma_max) * normal, AXIAL, shape))


def volume(state: State) -> np.ndarray:
    return state.x.gathered()


# --- the prior alone

SIDE, S = 24, 1.3
FINE = Schedule(0.01, 20.0, 200)
#: A corrector of ratio r settles at a variance 1/(1 − r²) times the right one: 0.3 % here.
SMALL_SNR = 0.05


@pytest.fixture(scope="module")
def unguided() -> np.ndarray:
    """A sample of the Gaussian prior by the full reverse diffusion, with the predictor's noise."""
    sampler = sampler_of(Gaussian(S), FINE, seed=4, snr=SMALL_SNR, predictor_noise=True)
    return volume(run(sampler, start((SIDE, SIDE, SIDE), FINE.sigma_max, sampler.noise)))


def test_sample_has_the_priors_mean_and_variance(unguided):
    n = unguided.size
    # Five standard deviations of the sample mean.
    assert abs(unguided.mean(dtype=np.float64)) < 5 * S / np.sqrt(n)
    # Five standard deviations of the sample variance, and 2 % for 200 finite steps.
    assert unguided.var(dtype=np.float64) == pytest.approx(S**2, rel=5 * np.sqrt(2 / n) + 0.02)
    # The fourth moment of a normal is three variances squared; its standard error is √96 variances squared over √n.
    fourth = (unguided.astype(np.float64) ** 4).mean() / unguided.var(dtype=np.float64) ** 2
    assert fourth == pytest.approx(3, abs=5 * np.sqrt(96 / n))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_voxels_of_the_sample_are_independent(unguided, axis):
    neighbours = (unguided * np.roll(unguided, 1, axis)).mean(dtype=np.float64) / S**2
    assert abs(neighbours) < 5 / np.sqrt(unguided.size)


def test_published_predictor_without_noise_samples_too_narrowly():
    # The corrector is weaker still: one of the published ratio brings back most of the variance at low noise.
    sampler = sampler_of(Gaussian(S), FINE, seed=4, snr=0.01)
    narrow = volume(run(sampler, start((SIDE, SIDE, SIDE), FINE.sigma_max, sampler.noise)))
    # Without its noise the predictor contracts x by twice the right logarithm: a quarter of the variance is left here.
    assert narrow.var() < 0.5 * S**2


# --- the posterior


def test_guided_sample_follows_the_measurement_and_keeps_the_prior_elsewhere(unguided):
    """For y = A x without noise the posterior's mean is y on what A sees, and its spread is the prior's on the rest."""
    shape, factor = (SIDE, SIDE, SIDE), 2
    truth = (S * np.random.default_rng(9).standard_normal(shape)).astype(np.float32)
    operator = ThickSlices((SIDE, SIDE), factor, axis=2)
    y = operator.apply(AXIAL.slices_of(truth))
    # Steps as far as they may go without overshooting, so that the last primary turn arrives.
    guidance = Dps(operator, y, weight=10.0, stable=True)
    sampler = sampler_of(Gaussian(S), FINE, seed=4, snr=SMALL_SNR, predictor_noise=True, dps=guidance)
    slices = run(sampler, start(shape, FINE.sigma_max, sampler.noise)).x.to(AXIAL).data
    seen = operator.apply(slices)
    n_blocks, spread = y.size, S / np.sqrt(factor)

    unseen = slices - operator.repeated(seen)
    # The last level is the auxiliary's: it leaves its corrector's noise, √(2ε) with ε = 2 r² s², and nothing more. Five
    # standard deviations of a sample's width.
    last_noise = 2 * SMALL_SNR * spread
    assert np.sqrt(((seen - y) ** 2).mean()) == pytest.approx(last_noise, rel=5 / np.sqrt(2 * n_blocks))
    # The prior's own sample knows nothing of y.
    free = operator.apply(AXIAL.slices_of(unguided))
    assert np.sqrt(((free - y) ** 2).mean()) == pytest.approx(np.sqrt(2) * spread, rel=0.1)
    # What the blocks' means leave has half of the voxels' degrees of freedom, at s² each; tolerance as for the prior.
    assert (unseen.astype(np.float64) ** 2).sum() / n_blocks == pytest.approx(
        S**2, rel=5 * np.sqrt(2 / n_blocks) + 0.02
    )
    correlation = np.corrcoef(unseen.ravel(), (AXIAL.slices_of(truth) - operator.repeated(y)).ravel())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(n_blocks)


# --- the formulas

SHAPE = (6, 8, 10)
COARSE = Schedule(0.05, 5.0, 4)


def step_by_formula(x, i, schedule, s, noise, *, operator=None, y=None, weight=0.0, group, snr, factor=None):
    """One noise level in float64 as DESIGN.md writes it, for the Gaussian denoiser; y in slices of the axial plane."""
    sigma = schedule.sigma_min * (schedule.sigma_max / schedule.sigma_min) ** np.linspace(1, 1e-5, schedule.n_steps)[i]
    levels = np.exp(np.linspace(np.log(schedule.sigma_min), np.log(schedule.sigma_max), schedule.n_steps))
    j = schedule.n_steps - 1 - i
    drop = levels[j] ** 2 - (levels[j - 1] ** 2 if j else 0)
    plane = AXIAL if i % 2 == 0 else CORONAL
    shrink = s**2 / (s**2 + sigma**2)
    x = x.transpose(plane.axes).copy()
    parts = np.array_split(np.arange(len(x)), -(-len(x) // group))

    def draw(phase):
        return noise.draw(i, phase, plane, SHAPE).astype(np.float64)

    def gradient(x, phase):
        """λ ∇‖P x̂₀ − P y† − σ z₁/√f‖ for thick columns, λ ∇‖A x̂₀ − y‖ for k-space; zero on auxiliary turns."""
        g = np.zeros_like(x)
        if operator is None or plane is not AXIAL:
            return g
        for part in parts:
            if factor is None:
                r = np.fft.fftshift(np.fft.fft2(shrink * x[part]), axes=(1, 2)) * operator.mask - y[part]
                pulled = np.fft.ifft2(np.fft.ifftshift(operator.mask * r, axes=(1, 2))).real * r[0].size
            else:
                covered = x.shape[2] // factor * factor

                def block_means(v):
                    means = np.zeros_like(v)
                    for c in range(0, v.shape[2] // factor * factor, factor):
                        means[:, :, c : c + factor] = v[:, :, c : c + factor].mean(axis=2, keepdims=True)
                    return means

                repeated = np.zeros_like(x[part])
                repeated[:, :, :covered] = y[part].repeat(factor, axis=2)
                z = np.zeros_like(x[part])
                z[:, :, :covered] = draw(phase)[part][:, :, :covered:factor].repeat(factor, axis=2)
                r = block_means(shrink * x[part]) - repeated - sigma * z / np.sqrt(factor)
                pulled = block_means(r)
            g[part] = weight * shrink * pulled / np.linalg.norm(r)
        return g

    score, pull = (shrink - 1) * x / sigma**2, gradient(x, Phase.CORRECTOR_MEASUREMENT)
    z = draw(Phase.CORRECTOR)
    for part in parts:
        mean_z = np.mean([np.linalg.norm(v) for v in z[part]])
        mean_score = np.mean([np.linalg.norm(v) for v in score[part]])
        epsilon = 2 * (snr * mean_z / mean_score) ** 2
        x[part] += epsilon * score[part] + np.sqrt(2 * epsilon) * z[part]
    x -= pull
    score, pull = (shrink - 1) * x / sigma**2, gradient(x, Phase.PREDICTOR_MEASUREMENT)
    x += drop * score - pull
    return x.transpose(np.argsort(plane.axes))


@pytest.mark.parametrize("task", ["uncond", "csmri", "mrzsr"])
@pytest.mark.parametrize("group", [1, 4, 100])
def test_steps_are_those_of_the_formulas(task, group):
    noise, generator = CounterNoise(3), np.random.default_rng(5)
    n, h, w = AXIAL.shape_of(SHAPE)
    operator = guidance = factor = y = None
    weight = 0.4
    truth = generator.standard_normal((n, h, w)).astype(np.float32)
    if task == "csmri":
        operator = MaskedFourier((generator.random((h, w)) < 0.5).astype(np.float32))
        y = operator.apply(truth)
        guidance = Dps(operator, y, weight, group=group)
    elif task == "mrzsr":
        factor = 3  # eight columns: two of them belong to no block
        operator = ThickSlices((h, w), factor, axis=2)
        y = operator.apply(truth)
        renoise = block_noise(noise, operator)
        guidance = Dps(operator, y, weight, scale=np.sqrt(factor), group=group, renoise=renoise)
    sampler = sampler_of(Gaussian(S), COARSE, noise=noise, dps=guidance, group=group, snr=0.16)
    state = start(SHAPE, COARSE.sigma_max, noise)
    expected = volume(state).astype(np.float64)
    for i in range(COARSE.n_steps):
        expected = step_by_formula(
            expected, i, COARSE, S, noise, operator=operator, y=y, weight=weight, group=group, snr=0.16, factor=factor
        )
        state = sampler.step(state)
        assert state.step == i + 1
        # float32 against float64; at σ ≪ s the score (x̂₀ − x)/σ² has lost as many digits as x̂₀ agrees with x, three.
        assert np.linalg.norm(volume(state) - expected) <= 1e-5 * np.linalg.norm(expected), i


class KnownDescent:
    """Guidance whose direction and lengths are known: away from x̂₀, further for later slices."""

    def __init__(self, xp):
        self.xp = xp

    def __call__(self, denoiser, x, sigma, step, phase):
        x0 = denoiser.denoise(x.data, sigma)
        weights = self.xp.asarray(np.linspace(0, 0.1, len(x0), dtype=np.float32))
        return x0, -x0, weights, self.xp.asarray(np.float64(sigma))


@pytest.mark.parametrize("predictor_noise", [False, True])
def test_a_step_is_the_same_in_every_library(xp, to_numpy, predictor_noise):
    noise = CounterNoise(3)
    first = start(SHAPE, COARSE.sigma_max, noise)
    options = {"noise": noise, "group": 4, "predictor_noise": predictor_noise}
    state, same = first, replace(first, x=first.x.of(xp.asarray(first.x.data)))
    for i in range(COARSE.n_steps):
        state = sampler_of(Gaussian(S), COARSE, dps=KnownDescent(np), **options).step(state)
        same = sampler_of(Gaussian(S), COARSE, dps=KnownDescent(xp), **options).step(same)
        assert isinstance(same.x.data, xp.ndarray)
        assert isinstance(same.residual, xp.ndarray)
        assert float(same.residual) == COARSE.sigmas[i - i % 2]
        # The norms are summed in another order: a last bit of a step size, at most, which float32 hardly shows.
        expected = state.x.data
        np.testing.assert_allclose(to_numpy(same.x.data), expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())


def test_a_score_of_zero_moves_nothing():
    class Same(Gaussian):
        def _denoise(self, x, sigma):
            return x.copy()

    first = start(SHAPE, COARSE.sigma_max, CounterNoise(0))
    np.testing.assert_array_equal(sampler_of(Same(S), COARSE).step(first).x.data, first.x.data)


def test_nan_reaches_its_group_and_no_other():
    class Broken(Gaussian):
        def _denoise(self, x, sigma):
            x0 = super()._denoise(x, sigma)
            x0[5] = np.nan
            return x0

    first = start(SHAPE, COARSE.sigma_max, CounterNoise(0))
    slices = sampler_of(Broken(S), COARSE, group=5).step(first).x.data
    assert np.isnan(slices[5:]).all()
    assert np.isfinite(slices[:5]).all()


def test_residual_is_that_of_the_last_primary_turn():
    operator = ThickSlices(AXIAL.shape_of(SHAPE)[1:], 2, axis=2)
    y = operator.apply(np.ones(AXIAL.shape_of(SHAPE), np.float32))
    sampler = sampler_of(Gaussian(S), COARSE, dps=Dps(operator, y, 0.1))
    first = start(SHAPE, COARSE.sigma_max, sampler.noise)
    assert first.residual is None
    primary = sampler.step(first)
    assert primary.residual is not None
    assert primary.residual > 0
    auxiliary = sampler.step(primary)
    assert auxiliary.residual == primary.residual
    assert sampler.step(auxiliary).residual != primary.residual
    unguided = replace(sampler, posterior_mean=replace(sampler.posterior_mean, dps=None))
    assert run(unguided, first).residual is None


def test_predictor_noise_is_the_reverse_diffusions():
    noise = CounterNoise(1)
    first = start(SHAPE, COARSE.sigma_max, noise)
    without = volume(sampler_of(Gaussian(S), COARSE, noise=noise).step(first))
    with_noise = volume(sampler_of(Gaussian(S), COARSE, noise=noise, predictor_noise=True).step(first))
    z = AXIAL.volume_of(noise.draw(0, Phase.PREDICTOR, AXIAL, SHAPE))
    # float32 at values of five.
    np.testing.assert_allclose(with_noise - without, np.sqrt(COARSE.variance_drops[0]) * z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("predictor_noise", [False, True])
def test_a_step_changes_nothing_but_what_it_returns(predictor_noise):
    operator = ThickSlices(AXIAL.shape_of(SHAPE)[1:], 2, axis=2)
    y = operator.apply(np.ones(AXIAL.shape_of(SHAPE), np.float32))
    guidance = Dps(operator, y, 0.1, renoise=block_noise(CounterNoise(0), operator))
    sampler = sampler_of(Gaussian(S), COARSE, dps=guidance, predictor_noise=predictor_noise)
    state = start(SHAPE, COARSE.sigma_max, sampler.noise)
    for _ in range(2):  # a primary and an auxiliary turn
        before, measured = state.x.data.tobytes(), y.tobytes()
        state.x.data.flags.writeable = False
        once, again = sampler.step(state), sampler.step(state)
        assert state.x.data.tobytes() == before
        assert y.tobytes() == measured
        assert once.x.data.tobytes() == again.x.data.tobytes()
        assert once.x.data.dtype == np.float32
        assert once.x.data.flags.c_contiguous
        state = once


# --- the reference implementation


@pytest.fixture(scope="module")
def reference_bundles(reference_tiny: Path, tmp_path_factory) -> list[Bundle]:
    pytest.importorskip("torch", reason="bundles are built with PyTorch, of the extra `export`")
    from export.build_engine import build_engine

    folder = tmp_path_factory.mktemp("reference")
    found = []
    for name, plane in {"xy": Plane((0, 1, 2)), "yz": Plane((1, 2, 0))}.items():
        # The reference has no entries on resampling and rescaling in its checkpoints: they are inferred.
        build_engine(reference_tiny / f"{name}.pth", folder / name, plane=plane)
        found.append(Bundle.open(folder / name))
        assert found[-1].plane == plane
    return found


@pytest.fixture(scope="module", params=[OnnxDenoiser, NativeDenoiser], ids=["onnx", "native"])
def reference_priors(reference_bundles, request) -> list[Prior]:
    return [Prior(request.param(bundle, n_threads=2), bundle.plane) for bundle in reference_bundles]


@pytest.mark.slow
def test_the_recorded_reference_run_is_reproduced(reference_tiny, reference_priors):
    primary, auxiliary = reference_priors
    with np.load(reference_tiny / "csmri_k2.npz") as stored:
        theirs = {name: stored[name] for name in stored.files}
    n_steps = int(theirs["N"])
    schedule = Schedule(float(theirs["sigma_min"]), float(theirs["sigma_max"]), n_steps)
    plan = plan_of(2, int(theirs["K"]), n_steps, 0)
    np.testing.assert_array_equal(plan == 0, theirs["plan_primary"])
    operator = MaskedFourier(theirs["mask"])
    group = int(theirs["group"])
    y = np.ascontiguousarray(theirs["measurement"][:, 0])
    guidance = Dps(operator, y, float(theirs["dps_weight"]), group=group)
    noise = ReplayNoise(theirs["init_noise"], theirs["noise"])
    posterior_mean = PosteriorMean((primary, auxiliary), plan, (0.5, 0.5), guidance)
    sampler = PredictorCorrector(posterior_mean, schedule, noise, group=group, snr=float(theirs["snr"]))
    first = theirs["init_noise"] * np.float32(schedule.sigma_max)
    state = run(sampler, State(Stack.scattered(first, primary.plane)))
    error = np.linalg.norm(volume(state) - theirs["recon"]) / np.linalg.norm(theirs["recon"])
    # 5e-5 in fact: rounding of another graph, which twelve steps of guidance through it enlarge.
    assert error < 1e-3
