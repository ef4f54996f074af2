"""Models of the package diffusers: x̂₀ as its own schedulers define it, its folders, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers", reason="needs the extra `diffusers`")

from engine.errors import InputError  # noqa: E402
from networks.loading import load_network  # noqa: E402

SMALL: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}


def network(**settings):
    """A network of random weights, none of them at the zeros or ones of a fresh one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = diffusers.UNet2DModel(**{**SMALL, **settings})
        for parameter in made.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return made.eval().requires_grad_(False)


def save(folder: Path, scheduler, **settings) -> Path:
    network(**settings).save_pretrained(folder)
    scheduler.save_pretrained(folder)
    return folder


def noisy(sigma: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 1, 16, 24, generator=generator, dtype=torch.float64)
    return torch.rand(2, 1, 1, 1, generator=generator, dtype=torch.float64) + sigma * noise


def assert_same(folder: Path, sigma: float, expected: torch.Tensor, x: torch.Tensor, **known) -> None:
    loaded, _ = load_network(folder, **known)
    got = loaded.double().denoise(x, torch.full((len(x),), sigma, dtype=torch.float64))
    # The package computes the waves of the time in float32, where 999.5 has steps of 6e-5.
    torch.testing.assert_close(got, expected, rtol=0, atol=3e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_x0_of_a_table_is_the_schedulers_own(tmp_path, schedule, prediction):
    scheduler = diffusers.DDPMScheduler(beta_schedule=schedule, prediction_type=prediction, clip_sample=False)
    save(tmp_path, scheduler)
    own = network().double()
    for entry in (0, 10, 300, 700, 990):
        alpha = scheduler.alphas_cumprod[entry].double()
        sigma = float(torch.sqrt((1 - alpha) / alpha))
        x = noisy(sigma)
        z = torch.sqrt(alpha) * x
        output = own(z, entry).sample
        # As `step` computes it, without the noise that it adds.
        expected = scheduler.step(output, entry, z).pred_original_sample
        assert_same(tmp_path, sigma, expected, x)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_x0_of_edm_is_the_schedulers_own(tmp_path, prediction):
    scheduler = diffusers.EDMEulerScheduler(prediction_type=prediction, sigma_data=0.3)
    save(tmp_path, scheduler)
    own = network().double()
    for sigma in (0.002, 0.3, 80.0):
        x = noisy(sigma)
        level = torch.tensor(sigma, dtype=torch.float64)
        output = own(scheduler.precondition_inputs(x, level), scheduler.precondition_noise(level)).sample
        assert_same(tmp_path, sigma, scheduler.precondition_outputs(x, output, level), x)


def test_x0_of_the_variance_exploding_score(tmp_path):
    save(tmp_path, diffusers.ScoreSdeVeScheduler(sigma_max=50.0), time_embedding_type="fourier")
    own, sigma = network(time_embedding_type="fourier").double(), 7.0
    x = noisy(sigma)
    score = own(x, torch.full((2,), sigma, dtype=torch.float64)).sample
    assert_same(tmp_path, sigma, x + sigma**2 * score, x)


def test_x0_of_a_flow_is_where_its_line_ends(tmp_path):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    save(tmp_path, scheduler)
    own = network().double()
    for entry in (20, 500, 990):
        s = float(scheduler.sigmas[entry])
        # The line: (1 − s)·x₀ + s·noise.
        z = (1 - s) * noisy(s / (1 - s))
        velocity = own(z, scheduler.timesteps[entry].double()).sample
        assert_same(tmp_path, s / (1 - s), z - s * velocity, z / (1 - s))


def test_between_entries_time_is_linear_in_the_logarithm(tmp_path):
    scheduler = diffusers.DDPMScheduler()
    loaded, _ = load_network(save(tmp_path, scheduler))
    sigmas = torch.sqrt(1 / scheduler.alphas_cumprod.double() - 1)
    levels = torch.stack(
        [sigmas[3], (sigmas[3] * sigmas[4]).sqrt(), sigmas[500], sigmas[998] ** 0.25 * sigmas[999] ** 0.75]
    )
    times: Any = loaded.schedule.double().time(levels)  # type: ignore[union-attr, operator]
    torch.testing.assert_close(times, torch.tensor([3, 3.5, 500, 998.75], dtype=torch.float64), rtol=0, atol=1e-4)


def test_intensities_from_minus_one_to_one(tmp_path):
    save(tmp_path, diffusers.DDPMScheduler())
    as_it_is, _ = load_network(tmp_path)
    mapped, info = load_network(tmp_path, centered=False)
    assert mapped.sigma_range == tuple(level / 2 for level in as_it_is.sigma_range)
    assert "[-1, 1]" in info["inferred"]["centered"]
    x, sigma = noisy(0.4).float(), torch.full((2,), 0.4)
    expected = (as_it_is.denoise(2 * x - 1, 2 * sigma) + 1) / 2
    torch.testing.assert_close(mapped.denoise(x, sigma), expected, rtol=1e-5, atol=1e-5)


def test_a_learned_variance_is_left_out(tmp_path):
    save(tmp_path, diffusers.DDPMScheduler(variance_type="learned_range"), out_channels=2)
    own, sigma = network(out_channels=2).double(), float((1 / diffusers.DDPMScheduler().alphas_cumprod[100] - 1).sqrt())
    x = noisy(sigma)
    assert_same(tmp_path, sigma, x - sigma * own(x / (1 + sigma**2) ** 0.5, 100).sample[:, :1], x)


def test_files_pipelines_and_pickles_are_the_same_model(tmp_path):
    folder = save(tmp_path / "model", diffusers.DDPMScheduler())
    x, sigma = noisy(1.0).float(), torch.ones(2)
    expected = load_network(folder)[0].denoise(x, sigma)
    pipeline = tmp_path / "pipeline"
    diffusers.DDPMPipeline(network(), diffusers.DDPMScheduler()).save_pretrained(pipeline)
    pickled = shutil.copytree(folder, tmp_path / "pickled")
    (pickled / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(network().state_dict(), pickled / "diffusion_pytorch_model.bin")
    weights = folder / "diffusion_pytorch_model.safetensors"
    for path in (pipeline, pipeline / "unet", pickled, pickled / "diffusion_pytorch_model.bin", weights):
        assert torch.equal(load_network(path)[0].denoise(x, sigma), expected), path


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


REFUSED = {
    "text": (lambda f: edit(f / "config.json", _class_name="UNet2DConditionModel"), "a text-conditioned model"),
    "volumes": (lambda f: edit(f / "config.json", _class_name="UNet3DConditionModel"), "a model of volumes or videos"),
    "latent": (lambda f: edit(f / "config.json", _class_name="AutoencoderKL"), "an autoencoder, as of latent models"),
    "other": (lambda f: edit(f / "config.json", _class_name="PriorModel"), "a model of the class PriorModel"),
    "colour": (lambda f: edit(f / "config.json", in_channels=3, out_channels=3), "one of 3 channels in and 3 out"),
    "classes": (lambda f: edit(f / "config.json", num_class_embeds=10), "conditioned on a class"),
    "skips": (lambda f: edit(f / "config.json", down_block_types=["SkipDownBlock2D"] * 2), "colour images alone"),
    "no_config": (lambda f: (f / "config.json").unlink(), "with its config.json, got none"),
    "no_schedule": (lambda f: (f / "scheduler_config.json").unlink(), "a scheduler_config.json, which tells"),
    "no_weights": (lambda f: (f / "diffusion_pytorch_model.safetensors").unlink(), "weights in one file"),
    "damaged": (lambda f: (f / "diffusion_pytorch_model.safetensors").write_bytes(b"\1" * 40), "cannot be read"),
    "no_json": (lambda f: (f / "config.json").write_text("{"), "a readable JSON file"),
    "mixed": (lambda f: edit(f / "config.json", block_out_channels=[8, 32]), r"\d+ others or missing, such as"),
    "wrong_schedule": (lambda f: edit(f / "scheduler_config.json", _class_name="VQDiffusionScheduler"), "a schedul"),
    "wrong_prediction": (lambda f: edit(f / "scheduler_config.json", prediction_type="noise"), "prediction"),
    "blocks": (lambda f: edit(f / "config.json", up_block_types=["NoBlock"] * 2), "that diffusers can build"),
    "latent_pipeline": (
        lambda f: (f / "model_index.json").write_text(
            json.dumps({"unet": ["diffusers", "UNet2DModel"], "vqvae": ["diffusers", "VQModel"]})
        ),
        "a latent model",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_a_sentence(tmp_path, case):
    spoil, found = REFUSED[case]
    spoil(save(tmp_path, diffusers.DDPMScheduler()))
    with pytest.raises(InputError, match=found) as error:
        load_network(tmp_path)
    assert error.value.argument == "ckpt"
    assert "\n" not in str(error.value)


def test_options_of_another_family_and_levels_out_of_range(tmp_path):
    save(tmp_path, diffusers.DDPMScheduler())
    with pytest.raises(InputError, match="fir: expected an NCSN"):
        load_network(tmp_path, fir=True)
    with pytest.raises(InputError, match="no-ema: expected an NCSN"):
        load_network(tmp_path, ema=False)
    with pytest.raises(InputError, match="sigma-max: expected noise levels within"):
        load_network(tmp_path, sigma_max=1000.0)
    assert load_network(tmp_path, sigma_max=50.0)[0].sigma_range[1] == 50.0
