"""The documents: commands that parse, an example of a geometry that loads, links that lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import tpdm
from engine import batch, demo, run, simulate
from engine.io.measurements.cone_geometry import cone_of
from engine.io.measurements.geometry import load_geometry
from engine.job.configuration import options_of, parse, read
from engine.job.parser import build_parser
from engine.study.study import study_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.stem: path for path in (ROOT / "docs").glob("*.md")}
TASKS = ("csmri", "mrzsr", "svct", "uncond")
LINKED = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *PAGES.values()]
#: A page of a task has this many commands at least: else nothing would be collected, and nothing fail.
FEWEST = 6
COMMAND = re.compile(r"(    )?(python -m (engine|export)\.|tpdm )")
#: Options that name files which a reader has, and the repository does not.
READERS_OWN = {"volume", "thick", "kspace", "sinogram", "geometry", "mask", "coil_maps", "primary", "resume", "config"}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(path: Path) -> Iterator[list[str]]:
    """Words of every command line of the program in indented or fenced code, continuation lines joined."""
    for line in path.read_text().replace("\\\n", " ").splitlines():
        if not COMMAND.match(line):
            continue
        words = shlex.split(line, comments=True)
        if words[:2] == ["python", "-m"]:
            yield words[2:]
        else:
            # A word of prose after `tpdm` is no command.
            assert words[1] in tpdm.COMMANDS, line
            yield [tpdm.COMMANDS[words[1]][0], *words[2:]]


COMMANDS = [(path, words) for path in LINKED for words in commands(path)]


def identity(value: object) -> str:
    return value.stem if isinstance(value, Path) else " ".join(map(str, value))[:80]  # type: ignore[call-overload]


@pytest.mark.parametrize("path", [*LINKED, *(ROOT / "benchmarks").glob("*.md")], ids=identity)
def test_scripts_that_are_named_exist(path):
    scripts = re.findall(r"\bpython3? ([\w/]+\.py)\b", path.read_text())
    assert [script for script in scripts if not (ROOT / script).is_file()] == []


def test_every_page_of_a_task_has_commands():
    for task in TASKS:
        own = [words for path, words in COMMANDS if path == PAGES[task]]
        assert len(own) >= FEWEST
        assert all(words[words.index("--task") + 1] == task for words in own if "--task" in words)


@pytest.mark.parametrize(("path", "words"), COMMANDS, ids=identity)
def test_a_command_is_what_the_program_takes(path, words, tmp_path, monkeypatch, capsys):
    module, *options = words
    if module == "engine.simulate":
        assert simulate.build_parser().parse_args(options).out.name
        return
    if module == "export.build_engine":
        build = pytest.importorskip("export.build_engine", reason="builds need PyTorch, of the extra `export`")
        build.build_parser().parse_args(options)
        return
    if module == "engine.batch":
        args, rest = batch.build_parser().parse_known_args(options)
        assert study_of(args.kind, rest).kind == args.kind
        return
    assert module == "engine.run"
    parser = build_parser()
    if "--resume" in options or "--config" in options:
        # Which task is in the file that they name.
        options = ["--task", "csmri", *options]
        parser.parse_args(options)
        return
    args = parse(parser, options)
    if not READERS_OWN & {name for name in args.given if args.given[name] is not None}:
        monkeypatch.chdir(tmp_path)
        assert run.main([*options, "--dry-run"]) == 0, capsys.readouterr().err
        assert f"task       {args.task}" in capsys.readouterr().out
        assert not any(tmp_path.iterdir())


SCRIPTS = [(path, i, text) for path in LINKED for i, text in enumerate(blocks(path.read_text(), "python"))]


@pytest.mark.parametrize(("path", "i", "text"), SCRIPTS, ids=[f"{path.stem}-{i}" for path, i, _ in SCRIPTS])
def test_a_python_example_runs(path, i, text, tmp_path, monkeypatch):
    pytest.importorskip("nilearn", reason="nilearn ships the demonstration's head")
    monkeypatch.chdir(tmp_path)
    exec(compile(text, f"{path.name}, block {i}", "exec"), {"__name__": "example"})


def test_python_examples_are_found():
    assert {path.stem for path, _, _ in SCRIPTS} >= {"README", "python"}


def test_the_geometry_of_the_page_loads(tmp_path):
    (text,) = blocks(PAGES["formats"].read_text(), "json")
    (tmp_path / "geometry.json").write_text(text)
    fields = json.loads(text)
    n_views, n_bins = fields["angles_deg"]["count"], fields["bins"]
    scan = load_geometry(tmp_path / "geometry.json", n_views, n_bins)
    assert scan.place.image_shape == (fields["rows"], fields["columns"])
    assert scan.place.pixel_mm == fields["pixel_mm"]
    # SPL: axial slices.
    assert scan.place.plane == demo.prior("axial").plane
    assert len(scan.geometry.angles_rad) == n_views


def test_the_cone_beam_of_the_page_is_read():
    (text,) = blocks(PAGES["svct"].read_text(), "json")
    fields = json.loads(text)
    scan = cone_of(fields, fields["angles_deg"]["count"], 80, 104)
    assert scan.geometry.shape == (fields["slices"], fields["rows"], fields["columns"])
    assert scan.place.plane == demo.prior("axial").plane


@pytest.mark.parametrize(
    ("heading", "reader"), [("Geometry of a sinogram", load_geometry), ("Geometry of a cone beam", cone_of)]
)
def test_every_key_of_a_geometry_is_explained(heading, reader):
    section = PAGES["formats"].read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    explained = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]*)\|", section, re.MULTILINE))))
    assert reader.__doc__
    assert explained == set(re.findall(r"``(\w+)``", reader.__doc__))


def test_the_options_of_the_page_are_read(tmp_path):
    (text,) = blocks(PAGES["formats"].read_text(), "yaml")
    (tmp_path / "run.yaml").write_text(text)
    args = parse(build_parser(), ["--config", str(tmp_path / "run.yaml")])
    assert options_of(args).keys() == read(tmp_path / "run.yaml").keys()


def anchors(path: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    found: set[str] = set()
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return found


def links(path: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?://", target)]


@pytest.mark.parametrize("path", LINKED, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    for link in links(path):
        target, _, anchor = link.partition("#")
        file = path.parent / target if target else path
        assert file.exists(), f"{link}: no such file"
        if anchor:
            assert anchor in anchors(file), f"{link}: no such heading"


def test_links_are_found():
    """Lest the test above looks at nothing."""
    assert "examples/csmri.py" in "".join(links(PAGES["csmri"]))
    assert "formats.md#geometry-of-a-sinogram" in links(PAGES["svct"])
    assert "geometry-of-a-sinogram" in anchors(PAGES["formats"])
    assert "a-single-persons-head" in anchors(PAGES["quality"])
