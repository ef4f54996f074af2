"""NaN around a body is background; NaN within it is damage."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from engine.io.volumes.volume import normalised
from tests.refusals import one_sentence


def masked():
    """A ball of intensities from 100 on, NaN around."""
    x = np.stack(np.meshgrid(*[np.arange(-5, 6)] * 3, indexing="ij"))
    return np.where((x**2).sum(axis=0) < 16, 107 + x[0], np.nan).astype(np.float32)


@pytest.mark.parametrize("darkest", [0, -1000])
def test_nan_around_a_body_becomes_the_darkest_intensity(caplog, darkest):
    data = masked()
    data[4, 5, 5] = darkest
    before = data.copy()
    with caplog.at_level(logging.WARNING):
        volume = normalised(data, np.eye(4), "head.nii")
    outside = np.isnan(data)
    np.testing.assert_array_equal(data, before)
    found = volume.in_file_units(volume.data)
    np.testing.assert_allclose(found[outside], np.nanmin(data), atol=1e-3)
    np.testing.assert_allclose(found[~outside], data[~outside], rtol=1e-5)
    said = [record.getMessage() for record in caplog.records if "NaN" in record.getMessage()]
    assert len(said) == 1 and f"{outside.sum()} voxels" in said[0] and "head.nii" in said[0]


@pytest.mark.parametrize("bad, n", [(np.nan, 1), (np.inf, 1), (-np.inf, 1)])
def test_what_is_not_finite_inside_is_refused(bad, n):
    data = masked()
    data[5, 5, 5] = bad
    with one_sentence("volume", f"got {n} NaN or infinite voxels inside", "replace them"):
        normalised(data, np.eye(4), "head.nii")


def test_infinite_values_around_are_no_background():
    data = np.where(np.isnan(masked()), np.inf, masked())
    with one_sentence("volume", f"got {np.isinf(data).sum()} NaN or infinite voxels in"):
        normalised(data, np.eye(4), "head.nii")


def test_nothing_but_nan_is_refused():
    with one_sentence("volume", "got 27 NaN or infinite voxels"):
        normalised(np.full((3, 3, 3), np.nan, np.float32), np.eye(4), "head.nii")


def test_a_hole_that_opens_to_the_border_is_outside():
    data = masked()
    data[5:, 5, 5] = np.nan
    assert np.isfinite(normalised(data, np.eye(4), "head.nii").data).all()
