"""A run says where its result does not explain the measurement, and is silent where it does."""

from __future__ import annotations

import json

import h5py
import nibabel as nib
import numpy as np
import pytest

from engine.run import main

#: What the warning begins with.
WARNED = "the result does not explain the measurement"


def centred(images):
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(images, axes=axes), norm="ortho"), axes=axes)


def ellipse(n_slices=4, n=64):
    y, x = (np.mgrid[:n, :n] - n // 2) / (n // 2)
    inside = (x / 0.7) ** 2 + (y / 0.8) ** 2 < 1
    discs = [(x - 0.2) ** 2 + (y - s / 9) ** 2 < 0.05 for s in range(n_slices)]
    return np.array([inside * (0.6 + 0.4 * disc) for disc in discs]), x, y


def scan(path, kind):
    """K-space of 13 lines in the middle and a quarter of the others, in arbitrary units."""
    image, x, y = ellipse()
    taken = np.random.default_rng(0).random(64) < 0.25
    taken[26:39] = True
    samples = centred(image * np.exp(4j * np.exp(-((y + 0.3) ** 2 + x**2) / 0.02)) if kind == "fast" else image)
    if kind.startswith("echo"):
        samples = np.roll(samples, int(kind.split()[1]), -1)
    with h5py.File(path, "w") as file:
        file["kspace"], file["mask"] = (1e3 * samples * taken).astype(np.complex64), taken
    return path


def done(folder, *words: object) -> dict:
    assert main([str(word) for word in (*words, "--out", folder, "--overwrite", "--quiet")]) == 0
    return json.loads((folder / "run.json").read_text())


def of_scan(tmp_path, kind, *words):
    return done(tmp_path / "out", "--task", "csmri", "--kspace", scan(tmp_path / "a.h5", kind), *words)


@pytest.mark.parametrize("kind", ["fast", "echo 3"])
def test_a_wrong_phase_shows_in_the_residual(tmp_path, kind, caplog):
    """In terminal, report and record alike; the result alone would not tell."""
    record = of_scan(tmp_path, kind, "--method", "wavelet", "--phase", "none")
    check = record["residual_check"]
    assert check["residual"] > 0.1 * check["sample_rms"] and check["residual"] > 1.5 * check["noise_level"]
    assert caplog.text.count(WARNED) == 1
    assert "a phase that varies fast or an echo off the centre (--phase joint)" in caplog.text
    assert WARNED in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("method", ["wavelet", "single"])
@pytest.mark.parametrize("kind", ["fast", "echo 3", "real"])
def test_the_defaults_explain_scans_whatever_their_phase(tmp_path, kind, method, caplog):
    steps = () if method == "wavelet" else ("--steps", 8)
    record = of_scan(tmp_path, kind, "--method", method, *steps)
    check = record["residual_check"]
    assert check["residual"] < 0.02 * check["sample_rms"]
    assert WARNED not in caplog.text
    image, *_ = ellipse()
    recon, zero_filled = (
        np.asarray(nib.load(tmp_path / "out" / f"{name}.nii.gz").dataobj) for name in ("recon", "zero_filled")
    )
    # SPL: columns to the left, rows to the back.
    truth = image.transpose(2, 1, 0)[::-1, ::-1]
    errors = [np.linalg.norm(volume / 1e3 - truth) for volume in (recon, zero_filled)]
    assert errors[0] < 0.75 * errors[1]
    assert record["task"]["phase"] == record["phase_choice"]["chosen"] == ("joint" if kind == "fast" else "estimate")


def test_the_phase_lies_beside_the_magnitude(tmp_path):
    of_scan(tmp_path, "fast", "--method", "tv", "--phase", "joint")
    recon, phase = (nib.load(tmp_path / "out" / f"{name}.nii.gz") for name in ("recon", "phase"))
    np.testing.assert_array_equal(recon.affine, phase.affine)
    image, x, y = ellipse()
    truth = (image * np.exp(4j * np.exp(-((y + 0.3) ** 2 + x**2) / 0.02))).transpose(2, 1, 0)[::-1, ::-1]
    found = np.asarray(recon.dataobj) / 1e3 * np.exp(1j * np.asarray(phase.dataobj))
    assert np.linalg.norm(found - truth) < 0.05 * np.linalg.norm(truth)


def test_an_echo_that_was_cut_off_is_told(tmp_path, caplog):
    of_scan(tmp_path, "echo 8", "--method", "classical")
    assert "the echo is not at its place" in caplog.text


@pytest.mark.parametrize("task", ["csmri", "svct", "mrzsr"])
@pytest.mark.parametrize("words", [("--method", "wavelet"), ("--steps", 8, "--noise", 0.01)], ids=["wavelet", "tpdm"])
def test_ordinary_runs_do_not_warn(tmp_path, task, words, caplog):
    check = done(tmp_path, "--task", task, *words)["residual_check"]
    assert 0 < check["residual"] < max(check["noise_level"], 0.01 * check["sample_rms"])
    assert WARNED not in caplog.text


def test_a_wrong_centre_of_rotation_shows(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    from engine import simulate

    assert simulate.main(["--task", "svct", "--out", "s.npy"]) == 0
    np.save("s.npy", np.roll(np.load("s.npy"), 3, axis=-1))
    geometry = next(tmp_path.glob("*.json"))
    words = ("--task", "svct", "--sinogram", "s.npy", "--geometry", geometry, "--method", "wavelet")
    check = done(tmp_path / "out", *words)["residual_check"]
    assert check["residual"] > 0.02 * check["sample_rms"]
    assert "a wrong centre of rotation" in caplog.text


def test_what_was_not_measured_has_no_residual(tmp_path):
    assert done(tmp_path, "--task", "uncond", "--steps", 2, "--prior", "head-t1-3mm")["residual_check"] is None
