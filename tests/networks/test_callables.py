"""Networks that a function of the user's returns: found, run, adapted, and refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.errors import InputError
from networks.loading import load_network

MODULE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, channels=1):
        super().__init__()
        torch.manual_seed(0)
        self.down, self.time = nn.Conv2d(channels, 4, 3, stride=2, padding=1), nn.Linear(1, 4)
        self.up, self.out = nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x, times):
        h = self.down(x) + self.time(times[:, None] / 1000)[:, :, None, None]
        return {result}

class Scheduler:
    prediction_type = "epsilon"
    alphas_cumprod = torch.linspace(0.999, 0.01, 50)

def good(): return Net(), Scheduler()
def colour(): return Net(3), Scheduler()
def alone(): return Net()
def text(): return "network"
def broken(): raise RuntimeError("no weights\\nhere")
def unscheduled(): return Net(), object()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Name of a new module in the working folder."""
    monkeypatch.chdir(tmp_path)
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    source = MODULE.replace("{result}", "self.out(self.up(torch.tanh(h)))")
    Path(f"{name}.py").write_text(source)
    return name


def test_a_function_gives_a_denoiser(module):
    network, info = load_network(f"{module}:good")
    assert network.divisor == 2
    assert "code that was run" in info["inferred"]["network"]
    alphas = torch.linspace(0.999, 0.01, 50).double()
    sigma = torch.sqrt(1 / alphas[[3, 40]] - 1)
    x = torch.rand(2, 1, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scaled = x * torch.sqrt(alphas[[3, 40]])[:, None, None, None]
    noise = network.double().network(scaled, torch.tensor([3.0, 40.0], dtype=torch.float64))  # type: ignore[operator]
    expected = x - sigma[:, None, None, None] * noise
    torch.testing.assert_close(network.denoise(x, sigma), expected, rtol=1e-5, atol=1e-5)
    again = load_network(f"{module}:good")[1]["sha256"]
    assert info["sha256"] == again


SMOOTHER = """
import torch
from torch import nn

ALPHAS = 1 / (1 + torch.linspace(-6, 3, 100).exp() ** 2)

class Smoother(nn.Module):
    # Averages neighbours, as many as the noise asks for, and knows in which range intensities lie.
    def forward(self, x, times):
        alpha = ALPHAS.to(x)[times.round().long()][:, None, None, None]
        x = x / alpha.sqrt()
        smooth = nn.functional.avg_pool2d(x, 5, 1, 2, count_include_pad=False)
        variance = 1 / alpha - 1
        blended = (0.01 * x + variance * smooth) / (0.01 + variance)
        return blended.clamp({low}, {high})

class Scheduler:
    prediction_type, alphas_cumprod = "sample", ALPHAS

def network(): return Smoother(), Scheduler()
"""


@pytest.mark.parametrize(("low", "high", "centered"), [(0.0, 0.6, True), (-1.0, 0.2, False)])
def test_the_range_of_intensities_is_found_by_trial(tmp_path, monkeypatch, low, high, centered):
    monkeypatch.chdir(tmp_path)
    name = f"smoother_{int(centered)}"
    Path(f"{name}.py").write_text(SMOOTHER.replace("{low}", str(low)).replace("{high}", str(high)))
    network, info = load_network(f"{name}:network")
    assert network.settings["centered"] is centered
    assert "by trial" in info["inferred"]["centered"]
    stated, info = load_network(f"{name}:network", centered=not centered)
    assert stated.settings["centered"] is not centered
    assert "stated" in info["inferred"]["centered"]


def test_random_weights_leave_intensities_as_they_are(module):
    network, info = load_network(f"{module}:good")
    assert network.settings["centered"] is True
    assert "no trial decides" in info["inferred"]["centered"]


@pytest.mark.parametrize(
    ("function", "found"),
    [
        ("absent", "AttributeError"),
        ("broken", r"RuntimeError: no weights\)"),
        ("text", "got str"),
        ("alone", "a network without its scheduler"),
        ("unscheduled", "without a table"),
        ("colour", "to have 3 channels, but got 1"),
    ],
)
def test_other_functions_are_refused(module, function, found):
    with pytest.raises(InputError, match=found) as error:
        load_network(f"{module}:{function}")
    assert error.value.argument == "ckpt"
    assert "\n" not in str(error.value)


def test_a_missing_module_and_options_of_others(module):
    with pytest.raises(InputError, match="ModuleNotFoundError"):
        load_network("no_such_module_anywhere:network")
    with pytest.raises(InputError, match="skip-rescale: expected an NCSN"):
        load_network(f"{module}:good", skip_rescale=True)
    with pytest.raises(InputError, match="sigma-min: expected noise levels within"):
        load_network(f"{module}:good", sigma_min=1e-4)
