"""A bundle on CPU cores agrees with the PyTorch network that it was built from, however the stack is cut."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import kernels
from engine.backends.bundle import Bundle
from engine.backends.native import NativeDenoiser
from engine.backends.onnx import OnnxDenoiser
from engine.sampling.denoiser import Denoiser

torch = pytest.importorskip("torch", reason="the reference is PyTorch, of the extra `export`")

SIGMAS = [0.01, 0.3, 7.0, 50.0]
SHAPES = [(1, 16, 16), (5, 16, 16), (3, 12, 20), (2, 30, 18)]
#: What a bundle is verified with: float32 rounding of the whole network, backward further than forward.
X0_BOUND, PULLBACK_BOUND = 1e-5, 1e-4


@pytest.fixture(scope="module")
def network(tiny_bundles):
    from networks import load_checkpoint

    return load_checkpoint(tiny_bundles["axial"].checkpoint)[0].double()


@pytest.fixture(scope="module")
def bundle(tiny_bundles) -> Bundle:
    return Bundle.open(tiny_bundles["axial"].folder)


@pytest.fixture(scope="module", params=[OnnxDenoiser, NativeDenoiser], ids=["onnx", "native"])
def runner(request):
    return request.param


@pytest.fixture(scope="module", params=[(1, 1), (2, 1), (2, 2), (5, 2)], ids=lambda p: f"batch{p[0]}-threads{p[1]}")
def denoiser(bundle, runner, request) -> Denoiser:
    batch_size, n_threads = request.param
    return runner(bundle, batch_size, n_threads)


def noisy(shape: tuple[int, ...], sigma: float) -> np.ndarray:
    generator = np.random.default_rng(sum(shape))
    return (generator.random((shape[0], 1, 1)) + sigma * generator.standard_normal(shape)).astype(np.float32)


@pytest.fixture(scope="module")
def cases(network) -> dict:
    """For every shape and level: x, the cotangent's weights, and x̂₀ and the gradient by `exact`."""
    found = {}
    for shape, sigma in product(SHAPES, SIGMAS):
        x, weights = noisy(shape, sigma), np.random.default_rng(3).random(shape).astype(np.float32)
        found[shape, sigma] = (x, weights, *exact(network, x, sigma, weights))
    return found


def exact(network, x: np.ndarray, sigma: float, weights: np.ndarray):
    """x̂₀ and, by autograd in float64, the gradient of Σ wᵢ x̂₀ᵢ²/2."""
    z = torch.from_numpy(x).double()[:, None].requires_grad_()
    x0 = network.denoise(z, torch.full((len(x),), np.float32(sigma)).double())
    (0.5 * (torch.from_numpy(weights).double()[:, None] * x0**2).sum()).backward()
    return x0.detach().numpy()[:, 0], z.grad.numpy()[:, 0]


def assert_close(ours: np.ndarray, theirs: np.ndarray, bound: float) -> None:
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    assert np.linalg.norm(ours - theirs) <= bound * np.linalg.norm(theirs)


def x0_bound(x: np.ndarray, x0: np.ndarray) -> float:
    """x̂₀ = x + σ·raw cancels where x is mostly noise: one rounding of x is added to the bound."""
    return X0_BOUND + float(np.finfo(np.float32).eps * np.linalg.norm(x) / np.linalg.norm(x0))


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_denoises_as_pytorch_does(denoiser, cases, shape, sigma):
    x, _, expected, _ = cases[shape, sigma]
    before = x.copy()
    assert_close(denoiser.denoise(x, sigma), expected, x0_bound(x, expected))
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pulls_back_as_autograd_does(denoiser, cases, shape, sigma):
    x, weights, expected_x0, expected = cases[shape, sigma]
    # A cotangent that depends on x̂₀ and on which slices are asked for, as data consistency does.
    x0, pulled = denoiser.vjp(x, sigma, lambda x0, part: weights[part] * x0)
    assert_close(x0, expected_x0, x0_bound(x, expected_x0))
    assert_close(pulled, expected, PULLBACK_BOUND)


def test_the_network_matters_to_these_tests(cases):
    """At every level the network changes x by more than the tolerances: an identity would not pass."""
    for x, weights, x0, pulled in cases.values():
        assert np.linalg.norm(x0 - x) > 100 * x0_bound(x, x0) * np.linalg.norm(x0)
        assert np.linalg.norm(pulled - weights * x0) > 10 * PULLBACK_BOUND * np.linalg.norm(pulled)


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_every_slice_is_asked_for_once(bundle, runner, n):
    asked: list[int] = []  # list.extend is atomic
    runner(bundle, 2, 2).vjp(
        noisy((n, 16, 16), 1.0), 1.0, lambda x0, part: (asked.extend(range(n)[part]), np.zeros_like(x0))[1]
    )
    assert sorted(asked) == list(range(n))


def test_the_same_cut_gives_the_same_bytes(bundle, runner):
    x = noisy((5, 16, 16), 0.3)
    one, other = runner(bundle, 2, 2), runner(bundle, 2, 1)
    assert one.denoise(x, 0.3).tobytes() == one.denoise(x, 0.3).tobytes() == other.denoise(x, 0.3).tobytes()


def test_a_zero_cotangent_is_pulled_back_to_zero(denoiser):
    _, pulled = denoiser.vjp(noisy((3, 16, 16), 1.0), 1.0, lambda x0, part: np.zeros_like(x0))
    np.testing.assert_array_equal(pulled, 0)


def test_an_error_in_the_cotangent_reaches_the_caller(denoiser):
    def fails(x0: np.ndarray, part: slice) -> np.ndarray:
        raise ValueError("this cotangent fails")

    with pytest.raises(ValueError, match="this cotangent fails"):
        denoiser.vjp(noisy((3, 16, 16), 1.0), 1.0, fails)


def test_all_cores_work_unless_told_otherwise(bundle, runner):
    assert runner(bundle).n_threads == kernels.available_cores() >= 1


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((16, 16), np.float32),
        np.zeros((2, 1, 16, 16), np.float32),
        np.zeros((2, 16, 16)),
        np.zeros((16, 16, 2), np.float32).transpose(2, 0, 1),
    ],
    ids=["rank 2", "rank 4", "float64", "strided"],
)
def test_what_is_no_contiguous_float32_stack_is_refused(bundle, runner, x):
    denoiser = runner(bundle)
    with pytest.raises(ValueError, match=r"^x: expected contiguous \(n, h, w\) float32, got .*; pass a stack"):
        denoiser.denoise(x, 1.0)
    with pytest.raises(ValueError, match=r"^x: expected contiguous \(n, h, w\) float32, got .*; pass a stack"):
        denoiser.vjp(x, 1.0, lambda x0, part: x0)


def test_native_results_do_not_depend_on_the_cut(bundle):
    x = noisy((7, 16, 16), 0.3)
    results = []
    for batch_size, n_threads in ((1, 1), (3, 1), (4, 2), (7, 1)):
        denoiser = NativeDenoiser(bundle, batch_size, n_threads)
        # Denoising alone has its own memory, a guided step's serves it as well, and slices of another size need a new
        # one.
        first = denoiser.denoise(x, 0.3)
        x0, pulled = denoiser.vjp(x, 0.3, lambda x0, part: x[part])
        denoiser.vjp(noisy((2, 12, 20), 0.3), 0.3, lambda x0, part: x0)
        results.append((first, x0, pulled, denoiser.denoise(x, 0.3)))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_bundle_without_a_program_is_not_for_the_native_runner(bundle):
    assert NativeDenoiser.reason_against(bundle) is None
    manifest = dict(bundle.manifest, files={"denoise.onnx": "0"})
    reason = NativeDenoiser.reason_against(Bundle(bundle.folder, manifest))
    assert reason == "no network.json, which earlier exporters did not write"
