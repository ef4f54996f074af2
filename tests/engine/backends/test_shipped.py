"""Sets of priors: by name, by folder, and by the voxels of a volume."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.backends.bundle import CARD, Bundle
from engine.backends.shipped import SHIPPED, PriorSet, suiting
from engine.errors import InputError
from engine.volume import NAMED_PLANES, Plane

PLANES = [Plane(axes) for axes in NAMED_PLANES.values()]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_sets_are_whole_and_have_a_card(name):
    found = PriorSet.of(name)
    folders = {found.folder_of(plane) for plane in PLANES}
    for plane in PLANES:
        bundle = Bundle.open(found.folder_of(plane))
        assert bundle.serves_all_planes if len(folders) == 1 else bundle.plane == plane
        assert bundle.voxel_mm is not None
        bounds, rows = (bundle.manifest["verification"][key] for key in ("bounds", "rows"))
        assert max(row["split_pullback"] for row in rows) < bounds["pullback"]
    root = next(iter(folders)) if len(folders) == 1 else next(iter(folders)).parent
    assert name in (root / CARD).read_text()


def test_shipped_sets_are_small():
    folder = next(iter(PriorSet.of(SHIPPED[0]).folders.values())).parent
    assert sum(file.stat().st_size for file in folder.rglob("*") if "compiled" not in file.parts) < 19e6


@pytest.mark.parametrize(
    ("voxel_mm", "name"),
    [
        ((1, 1, 1), "head-t1-1mm"),
        ((0.868, 0.868, 1.0), "head-t1-1mm"),
        ((0.5, 0.5, 0.5), "head-t1-1mm"),
        ((2, 2, 2), "head-t1-1mm"),
        ((2.1, 2.1, 2.1), "head-t1-3mm"),
        ((3, 3, 3), "head-t1-3mm"),
        ((6, 6, 6), "head-t1-3mm"),
    ],
)
def test_the_nearest_voxels_choose(voxel_mm, name):
    assert suiting(voxel_mm, from_noise=False).name == name
    # Only one of them knows noise that hides the image.
    assert suiting(voxel_mm, from_noise=True).name == "head-t1-3mm"


def test_misfit_is_a_factor_outside_of_the_trained_range():
    bundle = Bundle.open(PriorSet.of("head-t1-1mm").folder_of(PLANES[0]))
    assert bundle.voxel_mm == (0.7, 1.4)
    assert [bundle.misfit(mm) for mm in ((0.7, 1.4, 1), (0.35, 1, 1), (1, 1, 2.8))] == pytest.approx([1, 2, 2])


def test_a_folder_of_bundles_has_the_planes_that_are_there(tmp_path):
    (tmp_path / "coronal").symlink_to(PriorSet.of("head-t1-3mm").folders["coronal"])
    found = PriorSet.of(tmp_path)
    assert list(found.folders) == ["coronal"]
    with pytest.raises(InputError, match=r"^planes: expected planes of '.*': coronal, got axial; "):
        found.folder_of(PLANES[0])


@pytest.mark.parametrize("name", ["head-t1-2mm", Path("nowhere"), ""])
def test_what_is_no_set_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^prior: expected head-t1-1mm or head-t1-3mm, an engine bundle, or a folder"):
        PriorSet.of(name)
