"""FreeSurfer's volumes: voxels and places as nibabel reads them."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest

from engine.io.volumes import load_volume
from tests.refusals import one_sentence

AFFINE = np.array([[-1.0, 0, 0, 12], [0, 0, 1.5, -7], [0, -2, 0, 31], [0, 0, 0, 1]])


def numbers(shape=(5, 6, 7), dtype="f4"):
    return np.random.default_rng(0).uniform(1, 200, shape).astype(dtype)


@pytest.mark.parametrize("name", ["a.mgz", "a.mgh", "A.MGZ"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4"])
def test_voxels_and_place(tmp_path, name, dtype):
    image = nib.MGHImage(numbers(dtype=dtype), AFFINE)
    content = image.to_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.lower().endswith("z") else content)
    volume = load_volume(tmp_path / name)
    data, affine = volume.orientation.file_of(volume.in_file_units(volume.data), volume.affine)
    np.testing.assert_allclose(data, numbers(dtype=dtype), rtol=1e-6)
    np.testing.assert_allclose(affine, AFFINE, atol=1e-5)
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")


def test_one_of_several_volumes(tmp_path):
    nib.save(nib.MGHImage(numbers((5, 6, 7, 3)), AFFINE), tmp_path / "a.mgz")
    with one_sentence("volume", "got 3 volumes", "--frame, 0 to 2"):
        load_volume(tmp_path / "a.mgz")
    volume = load_volume(tmp_path / "a.mgz", frame=2)
    data, _ = volume.orientation.file_of(volume.in_file_units(volume.data), volume.affine)
    np.testing.assert_allclose(data, numbers((5, 6, 7, 3))[..., 2], rtol=1e-6)


def test_a_wrong_checksum_is_refused(tmp_path):
    content = bytearray(gzip.compress(nib.MGHImage(numbers(), AFFINE).to_bytes()))
    content[-6] ^= 1
    (tmp_path / "a.mgz").write_bytes(content)
    with one_sentence("volume", "cannot be read"):
        load_volume(tmp_path / "a.mgz")
