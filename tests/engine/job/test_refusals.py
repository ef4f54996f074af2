"""Every option that cannot be used is refused in one sentence, before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.backends.engines import Engines
from engine.job.configuration import parse
from engine.job.output import Output
from engine.job.parser import GROUPS, build_parser
from engine.job.prepare import prepare
from engine.options import Option, declared, read
from engine.sampling.settings import Settings
from tests.refusals import one_sentence

OPTIONS = [(group, one) for groups in GROUPS.values() for group in groups for one in declared(group)]
SIDE = 16


@pytest.fixture(scope="module")
def prepared(tiny_bundles, tmp_path_factory):
    """Prepare a job with some options on a small volume; bundles and denoisers stay open."""
    file, engines = tmp_path_factory.mktemp("volume") / "head.npy", Engines()
    x = np.linspace(-1, 1, SIDE)
    np.save(file, np.exp(-3 * (x[:, None, None] ** 2 + x[:, None] ** 2 + 2 * x**2)).astype(np.float32))

    def do(task: str, *more: object) -> None:
        roles = ("coronal", "axial") if task == "mrzsr" else ("axial", "coronal")
        words: list[object] = ["--task", task, *((), ("--volume", file))[task != "uncond"]]
        words += ["--primary", tiny_bundles[roles[0]].folder, "--auxiliary", tiny_bundles[roles[1]].folder, *more]
        args = parse(build_parser(), [str(word) for word in words])
        read(Output, args)
        prepare(args, engines=engines)

    yield do
    engines.close()


def outside(one: Option) -> Iterator[float]:
    """Numbers just outside of an option's range."""
    step = 1 if int in one.kinds else 1e-3
    yield from (bound - step for bound in (one.low,) if bound is not None)
    yield from (bound + step for bound in (one.high,) if bound is not None)
    yield from (bound for bound in (one.above, one.below) if bound is not None)
    if float in one.kinds:
        yield from (math.nan, math.inf, -math.inf)


RANGES = [(group, one, value) for group, one in OPTIONS if one.range for value in outside(one)]


@pytest.mark.parametrize(("group", "one", "value"), RANGES, ids=[f"{one.name} {value:g}" for _, one, value in RANGES])
def test_values_out_of_range_are_refused(group, one, value):
    with one_sentence(one.name, f"got {value}"):
        group(**{one.field: value})


@pytest.mark.parametrize(("group", "one"), [(group, one) for group, one in OPTIONS if one.choices], ids=str)
def test_other_choices_are_refused(group, one, capsys):
    with one_sentence(one.name, "'other'", "choose one"):
        group(**{one.field: "other"})
    with pytest.raises(SystemExit) as left:
        parse(build_parser(), ["--task", "csmri", f"--{one.name}", "9"])
    assert left.value.code == 2
    assert f"argument --{one.name}: invalid choice" in capsys.readouterr().err


NEEDS = [(group, one, other) for group, one in OPTIONS for other in one.needs]
#: Settings beside which an option of the sampler has no effect, by the setting and the value that it needs.
WITHOUT = {
    ("mix", "sum"): (),
    ("sampler", "ddim"): ("--sampler", "pc"),
    ("sampler", "pc"): (),
    ("guidance", "dps"): (),
    ("guidance", "proximal"): ("--guidance", "dps"),
}
TASK_OF = {"--kspace": "csmri", "--thick": "mrzsr", "--sinogram": "svct", "--volume": "csmri"}


def given(one: Option) -> list[str]:
    """Words that give an option a value that it takes."""
    if bool in one.kinds:
        return [f"--{one.name}"]
    return [f"--{one.name}", str(one.choices[-1]) if one.choices else "0.5" if float in one.kinds else "1"]


@pytest.mark.parametrize(
    ("group", "one", "other"), NEEDS, ids=[f"{one.name} without {other}" for _, one, other in NEEDS]
)
def test_options_without_effect_are_refused(prepared, group, one, other):
    needed = one.needs[other]
    if group is Settings:
        with one_sentence(one.name, f"--{other} {needed[0]}", f"drop --{one.name} or change --{other}"):
            prepared("csmri", *given(one), *WITHOUT[other, needed[0]])
        return
    tasks = one.needs.get("task", tuple(TASK_OF.values()))
    if other == "source":
        source = next(source for source, task in TASK_OF.items() if source not in needed and task in tasks)
        task = TASK_OF[source]
    else:
        task, source = ("csmri" if other != "task" or "csmri" not in tasks else "svct"), "--volume"
    args = parse(build_parser(), ["--task", task, *given(one)])
    with one_sentence(one.name, needed[0], "on which it has no effect", f"drop --{one.name}"):
        read(group, args, source=source)


@pytest.mark.parametrize(
    ("task", "options", "named"),
    [
        # Ranges that depend on more than the option.
        ("csmri", ["--K", "1"], "K"),
        ("csmri", ["--K", "-1"], "K"),
        ("csmri", ["--K", "0.5"], "K"),
        ("csmri", ["--K", "nan"], "K"),
        ("csmri", ["--sigma-max", "51"], "sigma-max"),
        ("csmri", ["--sigma-min", "0.009"], "sigma-min"),
        ("csmri", ["--sigma-min", "2", "--sigma-max", "1"], "sigma"),
        ("csmri", ["--white", "0"], "white"),
        ("csmri", ["--resample", "0"], "resample"),
        ("csmri", ["--noise-level", "-0.1"], "noise-level"),
        ("csmri", ["--noise-level", "nan"], "noise-level"),
        ("csmri", ["--noise-level", "some"], "noise-level"),
        ("mrzsr", ["--factor", "1"], "factor"),
        ("mrzsr", ["--factor", "17"], "factor"),
        ("mrzsr", ["--gap", "-1"], "gap"),
        ("mrzsr", ["--gap", "4"], "gap"),
        ("mrzsr", ["--gap", "nan"], "gap"),
        ("mrzsr", ["--thick-axis", "1"], "primary"),
        ("csmri", ["--primary-plane", "sagittal"], "primary-plane"),
        ("csmri", ["--auxiliary-plane", "0,1,2"], "auxiliary-plane"),
        ("csmri", ["--primary-plane", "frontal"], "plane"),
        ("csmri", ["--planes", "axial,coronal"], "planes"),
        # Options that contradict each other.
        ("csmri", ["--preset", "reference", "--sampler", "ddim"], "preset"),
        ("csmri", ["--group", "3"], "group"),
        ("csmri", ["--guidance", "dps", "--group", "3"], "group"),
        ("csmri", ["--noise-level", "estimate", "--guidance", "dps", "--dps-weight", "1"], "noise-level"),
        ("csmri", ["--noise-level", "estimate", "--sampler", "pc", "--unlimited-steps"], "noise-level"),
        ("csmri", ["--noise-level", "0.1", "--rho", "1"], "noise-level"),
        ("uncond", ["--noise-level", "estimate"], "noise-level"),
        ("uncond", ["--white", "3"], "white"),
        ("uncond", ["--method", "dds"], "task"),
        # A zero is given as well.
        ("csmri", ["--guidance", "dps", "--rho", "0"], "rho"),
        ("csmri", ["--sparsity-weight", "0"], "sparsity-weight"),
        # Methods that do not read an option.
        ("csmri", ["--method", "single", "--sparsity-weight", "0.1"], "sparsity-weight"),
        ("csmri", ["--method", "single", "--K", "3"], "K"),
        ("csmri", ["--method", "single", "--mix", "sum"], "mix"),
        ("csmri", ["--method", "dds", "--noise-scale", "0.5"], "noise-scale"),
        ("csmri", ["--method", "dds", "--rho", "0"], "rho"),
        ("csmri", ["--method", "dds", "--preset", "fast"], "preset"),
        ("csmri", ["--method", "dds", "--unlimited-steps"], "unlimited-steps"),
        ("csmri", ["--method", "diffusionmbir", "--eta", "1"], "eta"),
        ("csmri", ["--method", "diffusionmbir", "--sampler", "pc"], "sampler"),
        ("csmri", ["--method", "tv", "--steps", "4"], "steps"),
        ("csmri", ["--method", "wavelet", "--steps", "4"], "steps"),
        ("csmri", ["--method", "classical", "--steps", "4"], "steps"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_options_that_do_not_go_together_are_refused(prepared, task, options, named):
    with one_sentence(named):
        prepared(task, *options)


def test_the_methods_that_read_a_noise_level_are_named(prepared):
    with one_sentence("noise-level", "a method that reads it (tpdm, single), got classical"):
        prepared("csmri", "--method", "classical", "--noise-level", "0.1")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--task csmri --thick x.nii", "thick"),
        ("--task mrzsr --kspace x.h5", "kspace"),
        ("--task csmri --kspace x.h5 --sinogram y.npy", "sinogram"),
        ("--task csmri --kspace x.h5 --volume y.nii", "volume"),
        ("--task csmri --kspace x.h5 --acceleration 4", "acceleration"),
        ("--task csmri --kspace x.h5 --noise 0", "noise"),
        ("--task svct --sinogram x.npy", "sinogram"),
        ("--task csmri --kspace nothing.h5", "kspace"),
        ("--task mrzsr --thick nothing.nii", "thick"),
        ("--task svct --sinogram nothing.npy --geometry nothing.json", "sinogram"),
        ("--task csmri --white 3", "white"),
        ("--task csmri --volume nothing.nii", "volume"),
        ("--task csmri --primary nothing", "engine"),
        ("--task csmri --tertiary x --primary y", "tertiary"),
        ("--task csmri --planes axial", "planes"),
        ("--task csmri --prior nowhere", "prior"),
        ("--task csmri --prior head-t1-3mm --primary x", "prior"),
    ],
)
def test_files_that_do_not_go_together_are_refused(tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    with one_sentence(named):
        prepare(parse(build_parser(), words.split()))
    assert not any(Path().iterdir())
