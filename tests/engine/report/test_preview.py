"""The preview picture: what is where, and that it is written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from engine.errors import InputError
from engine.report import preview
from engine.report.preview import write_preview
from engine.report.scales import round_top

SHAPE = (20, 24, 16)


def head():
    """An ellipsoid that leaves a margin."""
    x, y, z = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in SHAPE), indexing="ij")
    return (x**2 + y**2 + z**2 < 1).astype(np.float32) * np.float32(0.4)


def picture(path, volumes, **options):
    write_preview(path, volumes, **options)
    return imread(path)[..., :3]


def panel(image, column, row, frame_mm):
    """Cut a panel out of a picture, from the layout's inches."""
    width_mm = max(frame_mm[0], frame_mm[1])
    heights = [preview._PANEL * frame_mm[up] / width_mm for up in (1, 2, 2)]
    bottom = image.shape[0] / preview._DPI - preview._FOOT
    top = bottom - sum(heights[row:]) - preview._GAP * (2 - row)
    left = preview._EDGE + column * (preview._PANEL + preview._GAP)
    a, b = round(top * preview._DPI), round((top + heights[row]) * preview._DPI)
    c, d = round(left * preview._DPI), round((left + preview._PANEL) * preview._DPI)
    return image[a:b, c:d]


def shown_mm(volume, voxel_mm=(1, 1, 1)):
    inside = [np.flatnonzero(volume.any(axis=tuple({0, 1, 2} - {a}))) for a in range(3)]
    return [(i[-1] - i[0] + 1) * e * (1 + 2 * preview._FREE) for i, e in zip(inside, voxel_mm, strict=True)]


@pytest.mark.parametrize(
    ("high_axis", "row", "side"),
    [
        (0, 0, "left"),  # the patient's right
        (1, 0, "top"),  # the front
        (0, 1, "left"),
        (2, 1, "top"),
        (1, 2, "left"),
        (2, 2, "top"),
    ],
)
def test_display_is_radiological(tmp_path, high_axis, row, side):
    volume = head()
    bright = [slice(None)] * 3
    bright[high_axis] = slice(SHAPE[high_axis] // 2, None)
    volume[tuple(bright)] *= 2
    # The second column has no letters.
    image = panel(picture(tmp_path / "a.png", {"result": volume, "same": volume}), 1, row, shown_mm(volume))
    half = {"left": image.shape[1] // 2, "top": image.shape[0] // 2}[side]
    first, second = (image[:, :half], image[:, half:]) if side == "left" else (image[:half], image[half:])
    assert first.mean() > 1.8 * second.mean()


def test_panels_keep_the_voxels_aspect(tmp_path):
    volume, voxel_mm = head(), (1.0, 1.0, 3.0)
    image = picture(tmp_path / "a.png", {"result": volume, "same": volume}, voxel_mm=voxel_mm)
    coronal = panel(image, 1, 1, shown_mm(volume, voxel_mm)).max(axis=2) > 0.1
    height, width = np.ptp(np.flatnonzero(coronal.any(axis=1))), np.ptp(np.flatnonzero(coronal.any(axis=0)))
    x, _, z = shown_mm(volume, voxel_mm)
    assert height / width == pytest.approx(z / x, rel=0.05)


def test_slices_run_through_the_middle_of_the_tissue(tmp_path):
    # Tissue fills a corner; a bright plate at its middle height is in the axial slice, one elsewhere is not.
    volume = np.zeros((32, 32, 32), dtype=np.float32)
    volume[2:13, 2:13, 2:13] = 0.3
    on, off = volume.copy(), volume.copy()
    on[4:11, 4:11, 7] = 1.0
    off[4:11, 4:11, 10] = 1.0
    frame_mm = shown_mm(volume)
    image = picture(tmp_path / "a.png", {"truth": volume, "on": on, "off": off}, truth_key="truth", result_key="on")
    n = panel(image, 1, 0, frame_mm).shape[0] // 2
    middles = [panel(image, column, 0, frame_mm)[n - 5 : n + 5, n - 5 : n + 5].mean() for column in range(3)]
    assert middles[1] == pytest.approx(1, abs=0.01)  # clipped at white, which is the truth's
    assert middles[2] == pytest.approx(middles[0], abs=0.01)


def test_error_column_shows_where_the_result_is_wrong(tmp_path):
    truth = head()
    wrong = truth.copy()
    wrong[:5] += np.float32(0.05) * (truth[:5] > 0)
    wrong[5:10] -= np.float32(0.05) * (truth[5:10] > 0)
    volumes = {"truth": truth, "classical": truth * np.float32(0.5), "result": wrong}
    error = panel(picture(tmp_path / "a.png", volumes, truth_key="truth"), 3, 0, shown_mm(truth))
    half = error.shape[1] // 2
    # Low x is on the right; the classical volume's error is not the result's.
    assert error[:, half + 10 : half + 70].mean() > 0.3  # too dark
    assert error[:, half + 90 : half + 120].mean() > 0.15  # too bright
    assert error[:, : half - 5].mean() < 0.01
    assert np.ptp(error, axis=2).max() > 0.3  # in colour, unlike the volumes


def test_no_error_is_dark(tmp_path):
    truth = head()
    image = picture(tmp_path / "a.png", {"truth": truth, "result": truth.copy()}, truth_key="truth")
    assert panel(image, 2, 0, shown_mm(truth)).max() < 0.05


@pytest.mark.parametrize(
    ("top", "expected"), [(0, 1), (0.2, 1), (1, 1), (1.2, 1.5), (4, 5), (9, 10), (10, 10), (140, 150)]
)
def test_error_scale_is_the_next_round_number(top, expected):
    assert round_top(np.full((4, 4), top, dtype=np.float32), 1.0) == expected


@pytest.mark.parametrize("names", [["result"], ["anything"], ["a", "b", "c"]])
def test_without_truth_there_is_one_column_a_volume(tmp_path, names):
    image = picture(tmp_path / "a.png", {name: head() for name in names})
    inches = image.shape[1] / preview._DPI
    assert inches == pytest.approx(
        2 * preview._EDGE + len(names) * (preview._PANEL + preview._GAP) - preview._GAP, abs=0.02
    )


@pytest.mark.parametrize("fill", [0.0, -1.0, 1.0])
def test_a_featureless_volume_is_still_drawn(tmp_path, fill):
    flat = np.full(SHAPE, fill, dtype=np.float32)
    assert picture(tmp_path / "a.png", {"truth": flat, "result": flat}, truth_key="truth").size


def test_names_are_text_and_not_formulas(tmp_path):
    picture(tmp_path / "a.png", {"$x_{": head(), "a name much longer than any panel is wide": head()})


def test_same_volumes_give_the_same_bytes_and_nothing_else_is_left(tmp_path):
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    for path in (first, second, second):
        write_preview(path, {"result": head()})
    assert first.read_bytes() == second.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_a_failed_write_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disc full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disc full"):
        write_preview(path, {"result": head()})
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_pyplot_is_not_loaded():
    code = "import sys, engine.report.preview; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


NAN = np.full(SHAPE, np.nan, dtype=np.float32)


@pytest.mark.parametrize(
    ("file", "volumes", "options", "name"),
    [
        ("a.jpg", {"result": head()}, {}, "path"),
        ("a.png", {}, {}, "volumes"),
        ("a.png", {"result": head()[0]}, {}, "volumes"),
        ("a.png", {"result": head(), "other": head()[1:]}, {}, "volumes"),
        ("a.png", {"result": NAN}, {}, "volumes"),
        ("a.png", {"result": head()}, {"truth_key": "truth"}, "truth_key"),
        ("a.png", {"truth": head()}, {"truth_key": "truth"}, "result_key"),
        ("a.png", {"result": head()}, {"voxel_mm": 0}, "voxel_mm"),
        ("a.png", {"result": head()}, {"voxel_mm": (1, 2)}, "voxel_mm"),
        ("a.png", {"result": head()}, {"voxel_mm": (1, 2, float("nan"))}, "voxel_mm"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(tmp_path, file, volumes, options, name):
    with pytest.raises(InputError, match=rf"^{name}: expected .*, got .*; .*$"):
        write_preview(tmp_path / file, volumes, **options)
    assert not list(tmp_path.iterdir())
