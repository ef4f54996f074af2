"""Networks of a function as bundles: MONAI's own class, and operators that no graph can have."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.backends.bundle import Bundle
from export.build_engine import main

CUMULATIVE = """
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, x, times):
        return torch.cumsum(x, dim=2)

class Scheduler:
    prediction_type = "sample"
    alphas_cumprod = torch.linspace(0.999, 0.01, 50)

def network(): return Net(), Scheduler()
"""
MONAI = """
import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler

def network():
    torch.manual_seed(0)
    made = DiffusionModelUNet(
        spatial_dims=2, in_channels=1, out_channels=1, channels=(8, 16), attention_levels=(False, True),
        num_res_blocks=1, norm_num_groups=4, num_head_channels=8, resblock_updown={updown},
    )
    for parameter in made.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return made, DDPMScheduler(prediction_type="{prediction}")
"""


def test_an_unknown_operator_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("cumulative_network.py").write_text(CUMULATIVE)
    assert main(["--ckpt", "cumulative_network:network", "--out", "engine"]) == 2
    message = capsys.readouterr().err
    assert "aten.cumsum" in message
    assert not Path("engine").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("updown", "prediction"), [(False, "epsilon"), (True, "v_prediction")])
def test_a_network_of_monai(tmp_path, monkeypatch, updown, prediction):
    pytest.importorskip("monai", reason="compares with MONAI's own class")
    pytest.importorskip("einops", reason="MONAI's attention needs it")
    monkeypatch.chdir(tmp_path)
    name = f"monai_network_{int(updown)}"
    Path(f"{name}.py").write_text(MONAI.format(updown=updown, prediction=prediction))
    # Verified by the command itself, against float64 autograd through the class.
    assert main(["--ckpt", f"{name}:network", "--out", "engine", "--plane", "axial"]) == 0
    bundle = Bundle.open("engine")
    assert bundle.manifest["architecture"]["family"] == "DiffusionModelUNet of monai, by a function"
    assert len(bundle.manifest["verification"]["rows"]) == 5
