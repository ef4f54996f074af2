"""The architecture that tensors imply: exactly one, or a refusal that names the options."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from engine.errors import InputError
from networks import CheckpointError, NCSNpp, load_checkpoint, save_checkpoint
from networks.architecture import TRACELESS
from networks.checkpoint import read_weights
from networks.infer import infer_architecture


def traceless_of(architecture):
    return {k: getattr(architecture, k) for k in TRACELESS}


def fir_shows(a):
    """Whether some resampling layer has a convolution, whose name tells the filter."""
    with_conv = a.resblock == "ddpm" and a.resample_with_conv
    return a.n_levels == 1 or with_conv or "residual" in (a.progressive, a.progressive_input)


def infer(weights, stored=None, **known):
    return infer_architecture(weights, stored or {}, known)[0]


def test_tensors_give_the_architecture_back(architecture, random_network):
    weights = random_network(architecture).state_dict()
    if fir_shows(architecture):
        assert infer(weights, **traceless_of(architecture)) == architecture
        return
    with pytest.raises(InputError, match=r"--fir/--no-fir$"):
        infer(weights, **traceless_of(architecture))
    assert infer(weights, fir=architecture.fir, **traceless_of(architecture)) == architecture


def test_stored_settings_need_no_trial(architecture, random_network):
    weights = random_network(architecture).state_dict()
    found, how = infer_architecture(weights, architecture.to_dict(), {})
    assert found == architecture
    assert set(how.values()) == {"stored in the checkpoint"}


def test_no_wrong_flag_fits(architecture, random_network):
    """What shows in the tensors contradicts a wrong statement."""
    weights = random_network(architecture).state_dict()
    wrong: dict[str, Any] = {"resblock": "ddpm" if architecture.resblock == "biggan" else "biggan"}
    if architecture.n_levels > 1:
        other = {"none": "residual", "output_skip": "none", "residual": "output_skip"}
        wrong |= {"progressive": other[architecture.progressive], "ch_mult": (1,) * architecture.n_levels}
        if fir_shows(architecture):
            wrong["fir"] = not architecture.fir
    for name, value in wrong.items():
        with pytest.raises(InputError, match="drop or change the stated options"):
            infer(weights, **{**traceless_of(architecture), name: value})


@pytest.mark.parametrize("plane", ["xy", "yz"])
@pytest.mark.parametrize("ema", [True, False])
def test_recorded_checkpoints_need_no_option(reference_tiny, plane, ema):
    weights, _ = read_weights(reference_tiny / f"{plane}.pth", ema=ema)
    found, how = infer_architecture(weights, {}, {})
    # As the fixtures' README describes them.
    assert (found.nf, found.ch_mult, found.n_res_blocks, found.attention_levels) == (16, (1, 2, 2), 1, (2,))
    assert (found.sigma_min, found.sigma_max) == (0.01, 50.0)
    assert (found.resblock, found.progressive, found.progressive_input, found.fir) == (
        "biggan",
        "none",
        "residual",
        True,
    )
    assert traceless_of(found) == {"skip_rescale": True, "scale_by_sigma": True, "centered": False}
    assert set(how) == set(TRACELESS)
    assert all("by trial" in reason for reason in how.values())


@pytest.mark.parametrize("setting", TRACELESS)
def test_one_open_setting_is_tried(reference_tiny, setting):
    weights, _ = read_weights(reference_tiny / "xy.pth")
    truth = {"skip_rescale": True, "scale_by_sigma": True, "centered": False}
    expected = truth.pop(setting)
    found, how = infer_architecture(weights, {}, truth)
    assert getattr(found, setting) is expected
    assert "by trial" in how[setting]
    assert {how[k] for k in truth} == {"stated"}


def test_random_weights_are_refused_with_the_options(small, random_network):
    weights = random_network(replace(small, progressive_input="residual")).state_dict()
    with pytest.raises(InputError) as error:
        infer(weights)
    for option in ("skip-rescale", "scale-by-sigma", "centered"):
        assert f"--{option}/--no-{option}" in str(error.value)
    assert "--fir" not in str(error.value)


def test_weights_that_overflow_are_refused(small, random_network, monkeypatch):
    """A trial that ends in NaN loses; it must not pass for the best."""
    weights = random_network(small).state_dict()
    weights = {k: v * 1e30 if k.endswith("Conv_0.weight") else v for k, v in weights.items()}
    with pytest.raises(InputError, match="no choice that clearly denoises"):
        infer(weights)
    weights = random_network(replace(small, progressive="residual")).state_dict()
    # Half of the choices give NaN, the others no noise at all, which is an error of exactly 1.
    monkeypatch.setattr(
        NCSNpp, "forward_raw", lambda self, x, _: 0 * x if self.architecture.centered else x * torch.nan
    )
    with pytest.raises(InputError, match=r"\(errors 1 and 1\)"):
        infer(weights)


def test_stated_wins_over_stored_and_trial(reference_tiny):
    weights, _ = read_weights(reference_tiny / "xy.pth")
    stated = {"skip_rescale": False, "scale_by_sigma": False, "centered": True}
    found, how = infer_architecture(weights, {k: not v for k, v in stated.items()}, stated)
    assert traceless_of(found) == stated
    assert {how[k] for k in stated} == {"stated"}


def test_stored_wins_over_trial(reference_tiny):
    weights, _ = read_weights(reference_tiny / "xy.pth")
    stored = {"skip_rescale": False, "scale_by_sigma": False, "centered": True}
    assert traceless_of(infer(weights, stored)) == stored


def test_noise_levels_come_from_the_buffer_unless_stated(small, random_network):
    weights = random_network(replace(small, sigma_min=0.02, sigma_max=99.0, progressive="residual")).state_dict()
    found = infer(weights, **traceless_of(small))
    assert (found.sigma_min, found.sigma_max, found.n_scales) == (0.02, 99.0, small.n_scales)
    stated = infer(weights, sigma_max=30.0, **traceless_of(small))
    assert (stated.sigma_min, stated.sigma_max) == (0.02, 30.0)
    del weights["sigmas"]
    with pytest.raises(InputError, match="--sigma-min and --sigma-max"):
        infer(weights, **traceless_of(small))
    with pytest.raises(InputError, match=r"state --sigma-max$"):
        infer(weights, sigma_min=0.1, **traceless_of(small))
    assert infer(weights, sigma_min=0.1, sigma_max=10.0, **traceless_of(small)).sigma_max == 10.0


def test_a_table_that_numbers_the_levels_keeps_its_ends(small, random_network):
    positional = replace(small, embedding="positional", progressive="residual")
    weights = random_network(positional).state_dict()
    assert infer(weights, sigma_max=small.sigma_max, **traceless_of(small)) == positional
    with pytest.raises(InputError, match="sigma-max: expected 50, an end of the table"):
        infer(weights, sigma_max=30.0, **traceless_of(small))


def test_a_missing_tensor_fits_nothing(small, random_network):
    weights = random_network(small).state_dict()
    for name in ("all_modules.4.Conv_1.bias", "all_modules.4.Dense_0.weight", "all_modules.3.weight"):
        rest = {k: v for k, v in weights.items() if k != name}
        with pytest.raises(InputError, match="names and shapes of no architecture"):
            infer(rest)


def test_a_color_network_fits_nothing(small, random_network):
    weights = random_network(small).state_dict()
    weights["all_modules.3.weight"] = torch.zeros(small.nf, 3, 3, 3)
    with pytest.raises(InputError, match="names and shapes of no architecture"):
        infer(weights)


def test_unknown_setting_is_a_mistake_of_the_caller(small, random_network):
    with pytest.raises(TypeError, match="skip_recale"):
        infer(random_network(small).state_dict(), skip_recale=True)


def test_load_checkpoint_names_options_and_file(small, random_network, tmp_path):
    network: NCSNpp = random_network(small)
    path = tmp_path / "plain.pth"
    save_checkpoint(path, network, list(network.parameters())[1:])
    stored = torch.load(path, weights_only=True)
    del stored["architecture"]
    torch.save(stored, path)
    with pytest.raises(CheckpointError, match=r"plain\.pth'; state .*--fir/--no-fir.*--skip-rescale"):
        load_checkpoint(path)
    loaded, info = load_checkpoint(path, fir=True, skip_rescale=True, scale_by_sigma=True, centered=False)
    assert loaded.architecture == small
    assert set(info["inferred"].values()) == {"stated"}
