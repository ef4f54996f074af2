"""Volumes that end in tissue: which faces do, and what priors are then shown beyond them."""

from __future__ import annotations

import numpy as np
import pytest

from engine import demo
from engine.backends.borders import NO_FACES, cut_faces, margins_of
from engine.backends.bundle import Bundle
from engine.backends.padding import NO_MARGINS
from engine.backends.priors import load_priors
from engine.backends.shipped import PriorSet
from engine.problems.tasks import Measurement, simulate
from engine.volume import NAMED_PLANES, Plane

#: Tissue at all six faces.
CROP = (slice(16, 48), slice(14, 50), slice(16, 48))
AXIAL = Plane(NAMED_PLANES["axial"])


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    return demo.volume().data


def bundle_of(name: str) -> Bundle:
    return Bundle.open(next(iter(PriorSet.of(name).folders.values())))


@pytest.mark.parametrize("task", ["mrzsr", "csmri", "svct"])
def test_a_crude_image_shows_which_faces_cut_through_tissue(head, task):
    """Aliasing and streaks, at black borders, are no tissue."""
    how, plane = Measurement(), Plane(NAMED_PLANES["coronal" if task == "mrzsr" else "axial"])
    without_neck = np.ascontiguousarray(head[..., 16:])
    for data, bottom in ((head, False), (without_neck, True)):
        image = simulate(task, data, plane, how).classical()
        assert cut_faces(image) == (*NO_FACES[:2], (bottom, False))


def test_only_priors_that_know_black_borders_get_a_margin():
    faces = ((False, False), (False, True), (True, False))
    sagittal = Plane(NAMED_PLANES["sagittal"])  # rows along axis 1, columns along axis 2
    assert margins_of(bundle_of("head-t1-3mm"), sagittal, faces, (64, 64)) == ((0, 4), (4, 0))
    assert margins_of(bundle_of("head-t1-3mm"), AXIAL, faces, (64, 64)) == ((0, 0), (0, 4))
    assert margins_of(bundle_of("head-t1-3mm"), sagittal, NO_FACES, (64, 64)) == NO_MARGINS
    assert margins_of(bundle_of("head-t1-1mm"), sagittal, faces, (64, 64)) == NO_MARGINS


def test_sides_too_short_to_be_mirrored_get_none():
    assert margins_of(bundle_of("head-t1-3mm"), AXIAL, ((True, True),) * 3, (8, 9)) == ((0, 0), (4, 4))


def test_priors_of_the_python_interface_see_the_border(head):
    crop = np.ascontiguousarray(head[CROP])
    folder = PriorSet.of("head-t1-3mm").folder_of(Plane(NAMED_PLANES["coronal"]))
    (plain,), (with_margin,) = load_priors(folder), load_priors(folder, image=crop)
    x = np.ascontiguousarray(plain.plane.slices_of(crop)[15:17])
    noisy = x + 0.1 * np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    errors = []
    for prior in (plain, with_margin):
        with prior.denoiser as denoiser:
            errors.append(np.sqrt(np.mean((denoiser.denoise(noisy, 0.1) - x) ** 2)))
    assert errors[1] < 0.8 * errors[0]


def test_a_damaged_margin_is_refused(tmp_path):
    bundle = bundle_of("head-t1-3mm")
    with pytest.raises(ValueError, match="margin"):
        Bundle(tmp_path, {**bundle.manifest, "margin": -1})._checked_files()
