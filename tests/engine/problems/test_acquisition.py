"""Scans with thick slices: the gap between them, stated or as files say it."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from engine.io.volumes import Volume
from engine.io.volumes.reading import Thickness
from engine.problems.acquisition import of_thick
from engine.volume import Plane

CORONAL = Plane.parse("coronal")


def scan(thickness: Thickness | None = None, spacing_mm: float = 5.0) -> Volume:
    data = np.random.default_rng(0).random((8, 6, 4), np.float32)
    return Volume(data, np.diag([1.0, 1.0, spacing_mm, 1.0]), 1.0, "scan", thickness=thickness)


@pytest.mark.parametrize("axis", [2, None])
@pytest.mark.parametrize(
    ("mm", "spacing_mm", "gap"), [(3.0, 5.0, 2.0), (5.0, 5.5, 0.4545), (4.97, 5.0, 0.0), (5.0, 5.0, 0.0)]
)
def test_the_gap_is_what_thickness_leaves_of_the_distance(axis, mm, spacing_mm, gap):
    problem = of_thick(scan(Thickness(mm, "DICOM", axis), spacing_mm), factor=5).problem(CORONAL)
    assert problem.operator.gap == pytest.approx(gap, abs=1e-4)
    assert problem.operator.is_block_mean == (gap == 0)
    if gap:
        assert problem.details["gap_from"] == f"slices {mm:g} mm thick and {spacing_mm:g} mm apart (DICOM)"
    else:
        assert "gap_from" not in problem.details


def test_it_is_the_same_as_when_it_is_stated():
    ours = of_thick(scan(Thickness(3.0, "DICOM", 2)), factor=5).problem(CORONAL)
    theirs = of_thick(scan(), factor=5, gap=2.0).problem(CORONAL)
    x = CORONAL.slices_of(np.random.default_rng(1).random((8, 6, 20), np.float32))
    np.testing.assert_array_equal(ours.operator.apply(x), theirs.operator.apply(x))


@pytest.mark.parametrize("gap", [0.0, 1.0])
def test_a_gap_that_is_stated_counts_more(gap):
    problem = of_thick(scan(Thickness(3.0, "DICOM", 2)), factor=5, gap=gap).problem(CORONAL)
    assert problem.operator.gap == gap and "gap_from" not in problem.details


def test_thickness_along_another_axis_says_nothing():
    assert of_thick(scan(Thickness(3.0, "DICOM", 0)), factor=5).problem(CORONAL).operator.gap == 0


def test_slices_that_overlap_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        problem = of_thick(scan(Thickness(8.0, "DICOM", 2)), factor=5).problem(CORONAL)
    assert problem.operator.is_block_mean
    assert [record.getMessage() for record in caplog.records] == [
        "'scan': slices overlap, 8 mm thick and 5 mm apart (DICOM); they are taken for as thick as they are apart"
    ]


def test_it_says_nothing_where_nothing_is_known(caplog):
    problem = of_thick(replace(scan(), thickness=None), factor=5).problem(CORONAL)
    assert problem.operator.gap == 0 and "gap_from" not in problem.details and not caplog.records
