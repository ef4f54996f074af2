"""The fused update against its formula."""

from __future__ import annotations

import numpy as np
import pytest

import kernels
from kernels import reference


def arrays(shape, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(3)]


@pytest.mark.parametrize("with_noise", [True, False])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (0, 3), (3, 1, 33, 17), (200_001,)])
def test_equals_twin(shape, with_noise):
    x, score, noise = (np.asarray(array) for array in arrays(shape))
    got = kernels.fused_update(x, score, noise if with_noise else None, 142884.0, -0.3)
    # Exactly: both round every product and sum to float32 in the same order.
    np.testing.assert_array_equal(got, reference.fused_update(x, score, noise if with_noise else None, 142884.0, -0.3))
    assert got.shape == x.shape
    assert got.dtype == np.float32


@pytest.mark.parametrize("target", [0, 1, 2])
def test_out_may_be_an_input(target):
    inputs = arrays((5, 1000))
    expected = reference.fused_update(*inputs, 0.5, 2.0)
    got = kernels.fused_update(*inputs, 0.5, 2.0, out=inputs[target])
    assert got is inputs[target]
    np.testing.assert_array_equal(got, expected)


def test_inputs_are_left_alone():
    inputs = arrays((5, 10))
    copies = [array.copy() for array in inputs]
    kernels.fused_update(*inputs, 0.5, 2.0)
    for array, copy in zip(inputs, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_partial_overlap_is_refused():
    memory = np.zeros(101, np.float32)
    x, score, noise = arrays((100,))
    with pytest.raises(ValueError, match="out: expected an input itself or separate memory"):
        kernels.fused_update(memory[1:], score, noise, 1.0, 1.0, out=memory[:-1])
    with pytest.raises(ValueError, match="out: expected a writeable array"):
        x.flags.writeable = False
        kernels.fused_update(x, score, noise, 1.0, 1.0, out=x)
