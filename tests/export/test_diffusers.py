"""A model of the package diffusers as a bundle: built, verified, run by ONNX Runtime; what cannot run it says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="needs the extra `diffusers`")

from engine.backends.bundle import Bundle  # noqa: E402
from engine.backends.native import NativeDenoiser  # noqa: E402
from engine.backends.onnx import OnnxDenoiser  # noqa: E402
from export.build_engine import main  # noqa: E402
from export.verify import verify  # noqa: E402
from export.write.graphs import write_graphs  # noqa: E402
from networks.loading import load_network  # noqa: E402


def save(folder: Path, scheduler: Any, **settings: Any) -> Path:
    common: dict[str, Any] = {"in_channels": 1, "out_channels": 1, "layers_per_block": 1, "sample_size": 16}
    small = {"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 4}
    kinds = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = diffusers.UNet2DModel(**{**common, **small, **kinds, **settings})
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    network.save_pretrained(folder)
    scheduler.save_pretrained(folder)
    return folder


def test_build_and_run(tmp_path, capsys):
    source, out = save(tmp_path / "ddpm", diffusers.DDPMScheduler()), tmp_path / "engine"
    assert main(["--ckpt", str(source), "--out", str(out), "--plane", "axial"]) == 0
    bundle = Bundle.open(out)
    assert bundle.manifest["architecture"]["family"] == "diffusers UNet2DModel"
    assert (bundle.trained_size, bundle.divisor, round(bundle.sigma_max)) == (16, 2, 157)
    assert NativeDenoiser.reason_against(bundle) == (
        "no network.json, for the native kernels lack layers of diffusers UNet2DModel"
    )

    network, _ = load_network(source)
    x = np.random.default_rng(0).standard_normal((3, 16, 20)).astype(np.float32)
    cotangent = np.ones_like(x)
    z = torch.from_numpy(x)[:, None].double().requires_grad_()
    exact = network.double().denoise(z, torch.full((3,), 0.7, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(exact.sum(), z)
    with OnnxDenoiser(bundle) as denoiser:
        x0, pulled = denoiser.vjp(x, 0.7, lambda part, which: cotangent[which])
    assert np.linalg.norm(x0 - exact.detach().numpy()[:, 0]) < 1e-5 * np.linalg.norm(x0)
    assert np.linalg.norm(pulled - gradient.numpy()[:, 0]) < 1e-4 * np.linalg.norm(pulled)

    capsys.readouterr()
    assert main(["--ckpt", str(source), "--out", str(out), "--plane", "axial"]) == 0
    assert "is up to date" in capsys.readouterr().out
    diffusers.DDPMScheduler(beta_schedule="scaled_linear").save_pretrained(source)
    assert main(["--ckpt", str(source), "--out", str(out), "--plane", "axial", "--dry-run"]) == 0
    assert "would build" in capsys.readouterr().out
    assert main(["--bundle", str(out), "--to-checkpoint", str(tmp_path / "prior.pt")]) == 2
    assert "diffusers UNet2DModel" in capsys.readouterr().err


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "v-without-centred-padding": (
        lambda: diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"),
        {"downsample_padding": 0},
    ),
    "sample-scale-shift-resampling-blocks": (
        lambda: diffusers.DDIMScheduler(beta_schedule="scaled_linear", prediction_type="sample"),
        {
            "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
            "downsample_type": "resnet",
            "upsample_type": "resnet",
            "resnet_time_scale_shift": "scale_shift",
        },
    ),
    "edm-without-attention": (
        lambda: diffusers.EDMEulerScheduler(),
        {
            "down_block_types": ("DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D"),
            "add_attention": False,
            "center_input_sample": True,
        },
    ),
    "exploding-fourier": (lambda: diffusers.ScoreSdeVeScheduler(), {"time_embedding_type": "fourier"}),
    "flow-one-head": (
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(),
        {"attention_head_dim": None, "flip_sin_to_cos": False, "freq_shift": 1},
    ),
    "learned-variance": (lambda: diffusers.DDPMScheduler(variance_type="learned_range"), {"out_channels": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("centered", [True, False])
def test_every_kind_agrees_with_autograd(tmp_path, kind, centered):
    scheduler, settings = KINDS[kind]
    network, _ = load_network(save(tmp_path / "model", scheduler(), **settings), centered=centered)
    with torch.no_grad():
        write_graphs(network, tmp_path)
    rows = verify(network, tmp_path)
    assert len(rows) == 5
    assert all(row.passes for row in rows), rows
