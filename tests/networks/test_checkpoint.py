"""Checkpoint files: what is refused, and that what was written is read back."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import stat
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from networks import CheckpointError, load_checkpoint, save_checkpoint
from networks.checkpoint import random_checkpoint, read_stored, read_weights


def trained(network):
    return [p for name, p in network.named_parameters() if name != "all_modules.0.W"]


@pytest.fixture
def network(small, random_network):
    return random_network(replace(small, progressive_input="residual"))


@pytest.fixture
def saved(network, tmp_path):
    """A checkpoint whose EMA is half of its last weights."""
    path = tmp_path / "prior.pt"
    save_checkpoint(path, network, [p / 2 for p in trained(network)], step=7, plane=[2, 0, 1], image_size=16)
    return path


def change(path, edit):
    """Store the checkpoint again after `edit(stored)`."""
    stored = torch.load(path, weights_only=True)
    edit(stored)
    torch.save(stored, path)


class CreatesFile:
    """Unpickling this creates a file: the proof that pickled code ran."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"got nothing at .*absent\.pt"):
        load_checkpoint(tmp_path / "absent.pt")


def test_folder(tmp_path):
    with pytest.raises(CheckpointError, match="got a folder"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 1e-4, 0.01, 0.5, 0.9, 0.999])
def test_truncated_file(saved, kept):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CheckpointError, match=r"expected .*prior\.pt"):
        load_checkpoint(saved)


@pytest.mark.parametrize("content", [b"hello, this is no checkpoint\n" * 10, b"\0" * 100, b"PK\x03\x04" + b"x" * 100])
def test_other_formats(tmp_path, content):
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"expected .*other\.pth"):
        load_checkpoint(path)


def _safetensors(path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))


def _onnx(path):
    onnx = pytest.importorskip("onnx", reason="an ONNX graph needs onnx, of the extra `export`")
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []), producer_name="any"), path)


def _nifti(path, compressed):
    header = bytearray(352)
    header[:4], header[344:348] = (348).to_bytes(4, "little"), b"n+1\0"
    path.write_bytes(gzip.compress(bytes(header)) if compressed else bytes(header))


def _zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "mine")


def _torchscript(path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)


#: Intact files of other formats, and their names.
OTHERS = {
    "a safetensors file": _safetensors,
    "an ONNX graph": _onnx,
    "a NIfTI volume": lambda path: _nifti(path, False),
    "a compressed NIfTI volume": lambda path: _nifti(path, True),
    "a gzip file": lambda path: path.write_bytes(gzip.compress(b"text")),
    "a NumPy array": lambda path: np.save(path.open("wb"), np.zeros(3)),
    "a NumPy archive": lambda path: np.savez(path.open("wb"), a=np.zeros(3)),
    "a zip archive": _zip,
    "a TorchScript archive": _torchscript,
    "an HDF5 file": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)),
    "an empty file": lambda path: path.write_bytes(b""),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", OTHERS)
def test_an_intact_file_of_another_format_is_named(tmp_path, kind):
    path = tmp_path / "file.pt"
    OTHERS[kind](path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert caught.value.got == f"{kind}, '{path}'"
    assert caught.value.remedy.startswith("give the file that training by")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", sorted(set(OTHERS) - {"an empty file"}))
def test_the_first_bytes_of_other_formats_alone_are_no_more_than_damage(tmp_path, kind):
    """However short, what is left is refused in a sentence."""
    path = tmp_path / "file.pt"
    OTHERS[kind](path)
    content = path.read_bytes()
    for n in (1, 4, 9, len(content) // 2):
        path.write_bytes(content[:n])
        with pytest.raises(CheckpointError, match=r"^ckpt: expected .*file\.pt"):
            load_checkpoint(path)


@pytest.mark.parametrize(
    "write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))]
)
@pytest.mark.parametrize(
    "inside", [lambda payload: payload, lambda payload: {"model": {}, "config": payload}], ids=["bare", "in_checkpoint"]
)
def test_pickled_code_never_runs(tmp_path, write, inside):
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    payload = inside(CreatesFile(marker))
    write(payload, path)
    with pytest.raises(CheckpointError, match=r"never executed|cannot be read"):
        load_checkpoint(path)
    assert not marker.exists()
    # The payload is real: a reader that trusts the file would have been caught.
    pickle.loads(pickle.dumps(payload))
    assert marker.exists()


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"model": [1, 2]}, [1, 2], torch.zeros(3)])
def test_no_model(tmp_path, content):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="entry 'model'"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"conv1.weight": torch.zeros(64, 3, 7, 7), "bn1.weight": torch.ones(64), "fc.bias": torch.zeros(1000)},
        {"all_modules.0.W": "text"},
        {0: torch.zeros(1)},
    ],
    ids=["empty", "resnet", "text", "numbered"],
)
def test_other_networks(tmp_path, model):
    path = tmp_path / "other.pth"
    torch.save({"model": model, "ema": {"shadow_params": []}}, path)
    with pytest.raises(CheckpointError, match="expected an NCSN"):
        load_checkpoint(path)


FAMILIES = {
    "model.diffusion_model.input_blocks.0.0.weight": "a latent model",
    "input_blocks.0.0.weight": "guided-diffusion",
    "conv_in.conv.weight": "MONAI",
    "time_embedding.linear_1.weight": "diffusers",
    "model.map_layer0.weight": "EDM",
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("place", ["bare", "state_dict", "model"])
def test_networks_of_other_families_are_named(tmp_path, name, place):
    path = tmp_path / "other.pth"
    weights = {f"module.{name}": torch.zeros(4, 1, 3, 3), "other": torch.zeros(1)}
    torch.save(weights if place == "bare" else {place: weights}, path)
    with pytest.raises(CheckpointError, match=FAMILIES[name]) as error:
        load_checkpoint(path)
    assert "--ckpt module:function" in error.value.remedy


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("ema", [True, False])
def test_weights_that_are_not_finite(saved, bad, ema):
    def spoil(stored):
        tensors = stored["ema"]["shadow_params"] if ema else stored["model"].values()
        next(t for t in tensors if tuple(t.shape) == (8, 1, 3, 3)).view(-1)[3] = bad

    change(saved, spoil)
    with pytest.raises(CheckpointError, match=r"finite weights, got NaN or infinity in 'all_modules\.3\.weight'"):
        load_checkpoint(saved, ema=ema)
    load_checkpoint(saved, ema=not ema)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda stored: stored.pop("ema"), "got none in"),
        (lambda stored: stored["ema"].pop("shadow_params"), "got none in"),
        (lambda stored: stored["ema"]["shadow_params"].pop(), r"got \d+ in"),
        (lambda stored: stored["ema"]["shadow_params"].reverse(), "got another shape for 'all_modules.1.weight'"),
        (lambda stored: stored["ema"].update(shadow_params=[0.5] * 3), "got 3 in"),
    ],
    ids=["no_ema", "no_list", "too_short", "reversed", "numbers"],
)
def test_ema_that_does_not_match(saved, network, spoil, found):
    change(saved, spoil)
    with pytest.raises(CheckpointError, match=found) as error:
        load_checkpoint(saved)
    assert "--no-ema" in str(error.value)
    last, _ = load_checkpoint(saved, ema=False)
    assert all(torch.equal(got, want) for got, want in zip(trained(last), trained(network), strict=True))


def test_round_trip(saved, network):
    last, info = load_checkpoint(saved, ema=False)
    average, _ = load_checkpoint(saved)
    assert last.architecture == network.architecture
    assert (info["step"], info["plane"], info["image_size"]) == (7, [2, 0, 1], 16)
    assert not last.training
    assert not any(p.requires_grad for p in last.parameters())
    for name, tensor in network.state_dict().items():
        assert torch.equal(last.state_dict()[name], tensor)
        untrained = name in ("sigmas", "all_modules.0.W")
        assert torch.equal(average.state_dict()[name], tensor if untrained else tensor / 2)


def test_recorded_average_differs_from_the_last_weights(reference_tiny):
    average, _ = load_checkpoint(reference_tiny / "xy.pth")
    last, _ = load_checkpoint(reference_tiny / "xy.pth", ema=False)
    assert any(not torch.equal(a, b) for a, b in zip(trained(average), trained(last), strict=True))
    x, sigma = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0])
    assert not torch.equal(average(x, sigma), last(x, sigma))


def test_prefix_of_data_parallel_is_optional(saved):
    assert all(name.startswith("module.") for name in read_stored(saved)["model"])
    with_prefix, _ = read_weights(saved)

    def strip(stored):
        stored["model"] = {name.removeprefix("module."): t for name, t in stored["model"].items()}

    change(saved, strip)
    without, _ = read_weights(saved)
    assert list(without) == list(with_prefix)
    assert all(torch.equal(without[name], tensor) for name, tensor in with_prefix.items())


def test_optimiser_state_is_not_handed_on(saved):
    _, extra = read_weights(saved)
    assert not {"model", "ema", "optimizer"} & set(extra)


@pytest.mark.parametrize("stage", ["write", "rename"])
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError("No space left on device")])
def test_interrupted_save_leaves_the_old_file(saved, network, monkeypatch, stage, interruption):
    before = saved.read_bytes()

    def write_half(content, path):
        Path(path).write_bytes(before[: len(before) // 2])
        raise interruption

    def no_rename(source, target):
        raise interruption

    monkeypatch.setattr(*{"write": (torch, "save", write_half), "rename": (os, "replace", no_rename)}[stage])
    with pytest.raises(interruption if isinstance(interruption, type) else type(interruption)):
        save_checkpoint(saved, network, trained(network), step=8)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_save_makes_the_folder_and_leaves_only_the_checkpoint(network, tmp_path):
    path = tmp_path / "new" / "folder" / "prior.pt"
    save_checkpoint(path, network, trained(network))
    assert list(path.parent.iterdir()) == [path]
    ordinary = path.with_name("ordinary")
    ordinary.touch()
    # Others may read it as they may any new file here.
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


def test_random_checkpoint_repeats_and_has_no_dead_layer(small, tmp_path):
    for name in ("one.pt", "two.pt"):
        random_checkpoint(tmp_path / name, small, seed=3)
    one, two = (load_checkpoint(tmp_path / name)[0] for name in ("one.pt", "two.pt"))
    assert one.architecture == small
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.abs().max() > 1e-3, name
