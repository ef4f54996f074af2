"""What a file beside an image says of it."""

from __future__ import annotations

import json
import logging

import nibabel as nib
import numpy as np
import pytest

from engine.io.volumes import load_volume
from engine.io.volumes.reading import Thickness
from engine.io.volumes.sidecar import b_values, slice_thickness_mm


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.hdr"])
def test_thickness_of_slices_comes_from_the_json_beside_an_image(tmp_path, name):
    data = np.random.default_rng(0).random((5, 6, 4)).astype(np.float32)
    kind = nib.Nifti1Pair if name.endswith("hdr") else nib.Nifti1Image
    nib.save(kind(data, np.diag([1.0, 1, 5, 1])), tmp_path / name)
    assert load_volume(tmp_path / name).thickness is None
    (tmp_path / "a.json").write_text(json.dumps({"SliceThickness": 3, "SpacingBetweenSlices": 99}))
    assert load_volume(tmp_path / name).thickness == Thickness(3.0, "a.json")


@pytest.mark.parametrize("content", ["{}", "[3]", '{"SliceThickness": "3"}', '{"SliceThickness": 0}', '"a"'])
def test_a_json_that_does_not_say_it(tmp_path, caplog, content):
    (tmp_path / "a.json").write_text(content)
    assert slice_thickness_mm(tmp_path / "a.nii.gz") is None
    assert not caplog.records


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b""])
def test_a_damaged_json_is_warned_of(tmp_path, caplog, content):
    (tmp_path / "a.json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert slice_thickness_mm(tmp_path / "a.nii.gz") is None
    assert "a.json" in caplog.text


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1", "true"])
def test_a_thickness_that_is_none(tmp_path, value):
    (tmp_path / "a.json").write_text(f'{{"SliceThickness": {value}}}')
    assert slice_thickness_mm(tmp_path / "a.nii") is None


def test_b_values(tmp_path):
    assert b_values(tmp_path / "a.nii.gz") == []
    (tmp_path / "a.bval").write_text("0 1000 1000\n")
    assert b_values(tmp_path / "a.nii.gz") == [0, 1000, 1000]
    (tmp_path / "a.bval").write_text("words")
    assert b_values(tmp_path / "a.nii.gz") == []
