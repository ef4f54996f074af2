"""The report: right in a real browser, whole without a network, and harmless whatever a run's names are."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.errors import InputError
from engine.report.metrics import per_plane
from engine.report.page import Report, write_report
from engine.report.plots import plot
from engine.report.viewers import Grid, panels
from tests.engine.report.browser import Browser, find_browser

SHAPE = (20, 24, 16)
AFFINE = np.array([[2.0, 0, 0, -19], [0, 2.0, 0, -23], [0, 0, 2.0, -15], [0, 0, 0, 1]])
EVIL = "<script>window.harm = 1</script><img src=x onerror='window.harm = 2'>\"'&.nii"


def head() -> np.ndarray:
    """Two ellipsoids, one within the other."""
    x, y, z = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in SHAPE), indexing="ij")
    outer, inner = x**2 + y**2 + z**2 < 1, (x - 0.2) ** 2 + y**2 + z**2 < 0.2
    return (0.5 * outer + 0.4 * inner).astype(np.float32)


def report(**changes) -> Report:
    truth = head()
    noise = np.random.default_rng(0).normal(0, 0.02, (2, *SHAPE)).astype(np.float32)
    result, crude = truth + noise[0], truth + 4 * noise[1]
    full = Report(
        title="csmri",
        result=result,
        affine=AFFINE,
        classical=crude,
        truth=truth,
        deviation=np.abs(noise[0]),
        classical_title="zero filled",
        metrics={"reconstruction": per_plane(truth, result), "zero_filled": per_plane(truth, crude)},
        residuals=[30.0, None, 10.0, 3.0],
        sigmas=[0.3, 0.1, 0.03, 0.01],
        plan=["task       csmri, acceleration 4", "a line without a term"],
        settings={"seed": 7, "sampler": {"name": "ddim", "rho": None, "stable": True, "deep": {"weight": 0.25}}},
        record={"method": "tpdm", "plan": "PAPA"},
        command="python -m engine.run --task csmri",
        warnings=["the network gets larger slices than it knows"],
    )
    return replace(full, **changes)


UNCONDITIONAL = {"classical": None, "truth": None, "deviation": None, "metrics": None, "residuals": [None] * 4}
CONTENTS = {
    "all": {},
    "no truth": {"truth": None, "metrics": None, "deviation": None},
    "unconditional": UNCONDITIONAL,
    "truth alone": {"classical": None, "metrics": None},
    "flat": {**UNCONDITIONAL, "result": np.zeros(SHAPE, np.float32), "truth": np.zeros(SHAPE, np.float32)},
    "bare": {**UNCONDITIONAL, "residuals": (), "sigmas": (), "plan": (), "settings": {}, "record": {}, "warnings": ()},
}


@pytest.fixture(scope="module", params=CONTENTS)
def file(request, tmp_path_factory) -> Path:
    """The report of each of the contents, in a folder named after it."""
    path = tmp_path_factory.mktemp(request.param.replace(" ", "-")) / "report.html"
    write_report(path, report(**CONTENTS[request.param]))
    return path


class Page(HTMLParser):
    """Elements with their attributes, and the text within every kind of element."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.elements:
            self.texts.setdefault(self.elements[-1][0], []).append(data)

    def sprite(self, key: str) -> np.ndarray:
        """The picture of a viewer, uint8 (rows, columns, 3)."""
        source = next(a["src"] for tag, a in self.elements if tag == "img" and a.get("id") == f"sprite-{key}")
        return np.asarray(Image.open(BytesIO(base64.b64decode(source.split(",", 1)[1]))).convert("RGB"))


def written(folder, **changes) -> str:
    write_report(folder / "report.html", report(**changes))
    return (folder / "report.html").read_text()


def tile(sprite: np.ndarray, x: int, shape=SHAPE) -> np.ndarray:
    """Slice x of a volume, (y, z), from a picture in which the last slice comes first."""
    _, deep, high = shape
    row, column = divmod(shape[0] - 1 - x, sprite.shape[1] // deep)
    return sprite[row * high : (row + 1) * high, column * deep : (column + 1) * deep].swapaxes(0, 1)[:, ::-1]


# What is in the file


def test_nothing_points_out_of_the_file(file):
    html = file.read_text()
    page = Page(html)
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "form", "a")
        for attribute in ("src", "href", "xlink:href", "srcset", "action", "poster", "data"):
            assert (attributes.get(attribute) or "#").startswith(("#", "data:")), (tag, attributes)
        assert not any(key.startswith("on") for key in attributes)
    assert set(re.findall(r"url\(\s*['\"]?(.)", html)) <= {"#"}
    assert not re.findall(r"https?:|@import|\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon|import\(", html)


def test_text_of_a_run_stays_text(tmp_path):
    clean = written(tmp_path)
    evil = report(
        title=EVIL,
        classical_title=EVIL,
        plan=[f"volume     {EVIL}", EVIL],
        settings={EVIL: {EVIL: EVIL, "list": [EVIL]}, "x": EVIL},
        record={EVIL: EVIL},
        command=EVIL,
        warnings=[EVIL],
    )
    figures = evil.metrics["reconstruction"]
    evil = replace(evil, metrics={"reconstruction": figures, EVIL: figures})
    write_report(tmp_path / "evil.html", evil)
    html = (tmp_path / "evil.html").read_text()
    kinds = [[tag for tag, _ in Page(text).elements if tag in ("script", "img", "canvas")] for text in (clean, html)]
    assert kinds[0] == kinds[1]
    page = Page(html)
    assert EVIL in page.texts["title"]
    assert any(EVIL in text for text in page.texts["code"])
    assert any(EVIL in text for text in page.texts["li"])


def test_everything_of_the_run_is_there(tmp_path):
    page = Page(written(tmp_path))
    text = " ".join(part for parts in page.texts.values() for part in parts)
    content = report()
    gain = content.metrics["reconstruction"]["psnr_db"] - content.metrics["zero_filled"]["psnr_db"]
    for expected in (
        "20×24×16 voxels of 2 × 2 × 2 mm",
        f"{content.metrics['reconstruction']['axial']['psnr_db']:.2f}",
        f"{content.metrics['zero_filled']['sagittal']['ssim']:.3f}",
        f"+{gain:.2f}",
        "csmri, acceleration 4",
        "a line without a term",
        "deep.weight",
        "0.25",
        "yes",
        content.command,
        content.warnings[0],
        '"plan": "PAPA"',
        "Radiological",
        "Difference: result − truth",
    ):
        assert expected in text
    html = (tmp_path / "report.html").read_text()
    for step, sigma, residual in ((1, "0.3", "30"), (2, "0.1", "—"), (3, "0.03", "10"), (4, "0.01", "3")):
        assert f"<tr><td>{step}</td><td>{sigma}</td><td>{residual}</td></tr>" in html
    # Collapsed until someone asks.
    assert all("open" not in attributes for tag, attributes in page.elements if tag == "details")


def test_same_content_gives_the_same_bytes_and_nothing_else_is_left(tmp_path):
    for name in ("a.html", "b.html", "b.html"):
        write_report(tmp_path / name, report())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_a_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
    path = tmp_path / "a.html"
    path.write_text("old")

    def fail(*_):
        raise OSError("disc full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disc full"):
        write_report(path, report())
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]


# What the viewers show


def test_pictures_hold_the_volumes_on_one_grey_scale(tmp_path):
    content = report()
    page = Page(written(tmp_path))
    white = np.percentile(content.truth[content.truth > 0], 99.5)
    for key, volume in (("result", content.result), ("classical", content.classical), ("truth", content.truth)):
        sprite = page.sprite(key)
        for x in (0, 7, SHAPE[0] - 1):
            expected = np.clip(volume[x] / white, 0, 1) * 255
            # A level of the grey scale, whose 256 steps end at 255, and one of rounding.
            assert np.abs(tile(sprite, x)[..., 0] - expected).max() <= 2
        assert (np.ptp(sprite, axis=2) == 0).all()


@pytest.mark.parametrize("name", ["all", "no truth"])
def test_differences_have_a_sign_and_are_black_at_zero(tmp_path, name):
    changes = CONTENTS[name]
    base = head()
    result = base.copy()
    result[:8] += np.float32(0.05)
    result[12:] -= np.float32(0.05)
    other = {"classical": base} if name == "no truth" else {"truth": base}
    page = Page(written(tmp_path, **{**changes, "result": result, **other}))
    title = "Difference: result − " + ("zero filled" if name == "no truth" else "truth")
    assert title in page.texts["h3"]
    sprite = page.sprite("difference").astype(int)
    brighter, same, darker = tile(sprite, 4), tile(sprite, 10), tile(sprite, 15)
    assert (brighter[..., 0] > brighter[..., 2] + 50).all()  # orange
    assert (darker[..., 2] > darker[..., 0] + 50).all()  # blue
    assert same.max() <= 8


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("all", ["result", "classical", "truth", "difference", "uncertainty"]),
        ("no truth", ["result", "classical", "difference"]),
        ("unconditional", ["result"]),
        ("truth alone", ["result", "truth", "difference", "uncertainty"]),
    ],
)
def test_there_is_a_viewer_for_each_volume(name, expected):
    content = report(**CONTENTS[name])
    grid = Grid.of(SHAPE, AFFINE)
    listed = panels(grid, content.result, content.classical, "fbp", content.truth, content.deviation)
    assert [panel.key for panel in listed] == expected
    grey = [(p.low, p.high) for p in listed if p.key in ("result", "classical", "truth")]
    assert len(set(grey)) == 1


@pytest.mark.parametrize(
    ("shape", "voxel_mm", "expected", "word"),
    [
        ((64, 64, 64), (3, 3, 3), (64, 64, 64), ""),
        ((64, 60, 50), (1, 1.005, 1), (64, 60, 50), ""),
        ((60, 60, 20), (1, 1, 3), (60, 60, 60), "interpolated"),
        ((256, 256, 256), (0.9, 0.9, 0.9), (160, 160, 160), "down-sampled"),
        ((512, 512, 64), (0.5, 0.5, 4), None, "down-sampled"),
        ((8, 8, 2000), (1, 1, 10), None, "down-sampled"),
        ((1, 30, 30), (1, 1, 1), (1, 30, 30), ""),
    ],
)
def test_the_grid_is_isotropic_and_small_enough(shape, voxel_mm, expected, word):
    grid = Grid.of(shape, np.diag([*voxel_mm, 1.0]))
    if expected:
        assert grid.shape == expected
    assert (word in grid.note) if word else grid.note == ""
    assert np.prod(grid.shape) <= 1.05 * 160**3
    assert max(grid.shape) <= 512
    extent = np.multiply(shape, voxel_mm)
    assert np.abs(np.array(grid.shape) * grid.edge_mm - extent).max() <= max(grid.edge_mm, 0.01 * extent.max())
    # The borders of the volume stay where they are in the world.
    for end, source in ((np.full(3, -0.5), np.full(3, -0.5)), (np.array(grid.shape) - 0.5, np.array(shape) - 0.5)):
        found, meant = grid.affine @ [*end, 1], np.diag([*voxel_mm, 1.0]) @ [*source, 1]
        assert found == pytest.approx(meant)


def test_sampling_keeps_a_ramp_in_its_place():
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    affine[:3, 3] = (-5, 3, 10)
    grid = Grid.of((10, 12, 8), affine)

    def height(matrix, shape):
        index = np.indices(shape).reshape(3, -1)
        return (matrix[2, :3] @ index + matrix[2, 3]).reshape(shape)

    shown = grid.sample(height(affine, (10, 12, 8)).astype(np.float32))
    # Half a thick slice at either end has no neighbour to interpolate with.
    inner = (slice(None), slice(None), slice(2, -2))
    np.testing.assert_allclose(shown[inner], height(grid.affine, grid.shape)[inner], rtol=1e-5)


def test_a_page_of_64_cubed_stays_small(tmp_path):
    shape = (64, 64, 64)
    volumes = np.random.default_rng(1).random((4, *shape), dtype=np.float32)
    names = ("result", "classical", "truth", "deviation")
    html = written(tmp_path, metrics=None, **dict(zip(names, volumes, strict=True)))
    assert len(html) < 3e6  # noise, which nothing compresses


@pytest.mark.parametrize(
    ("values", "n_marks"),
    [([3.0, 2.0, 1.0], 3), ([3.0, None, 1.0], 2), ([3.0, 0.0, 1.0], 2), ([None], None), ([0.0], None), ([], None)],
)
def test_plots_leave_out_what_has_no_logarithm(values, n_marks):
    svg = plot("sigma", "σ <1", values)
    if n_marks is None:
        assert svg == ""
    else:
        assert svg.startswith('<svg role="img" aria-label="σ &lt;1"')
        assert len(re.findall(r"<use ", svg)) == n_marks
        assert "#070809" not in svg and "var(--second)" in svg


# What is refused


@pytest.mark.parametrize(
    ("file", "changes", "name"),
    [
        ("a.htm", {}, "path"),
        ("a.html", {"result": head()[0]}, "result"),
        ("a.html", {"result": head()[:0]}, "result"),
        ("a.html", {"result": np.full(SHAPE, np.nan, np.float32)}, "result"),
        ("a.html", {"classical": head()[1:]}, "classical"),
        ("a.html", {"truth": np.full(SHAPE, np.inf, np.float32)}, "truth"),
        ("a.html", {"deviation": head()[..., :-1]}, "deviation"),
        ("a.html", {"affine": np.eye(3)}, "affine"),
        ("a.html", {"affine": np.diag([1.0, 1.0, 0.0, 1.0])}, "affine"),
        ("a.html", {"affine": np.diag([1.0, 1.0, np.nan, 1.0])}, "affine"),
        ("a.html", {"metrics": {"other": {}}}, "metrics"),
        ("a.html", {"residuals": [1.0, float("nan")]}, "residuals"),
        ("a.html", {"sigmas": [float("inf")]}, "sigmas"),
        ("a.html", {"record": {"x": object()}}, "record"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_name(tmp_path, file, changes, name):
    with pytest.raises(InputError, match=rf"^{name}: expected .*, got .*; .*$"):
        write_report(tmp_path / file, report(**changes))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["engine.run", "engine.report.page"])
def test_nilearn_is_loaded_only_to_write(module):
    code = f"import sys, {module}; sys.exit('nilearn' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if find_browser() is None:
        pytest.skip("no Chromium to open the page with")
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def canvases(browser: Browser) -> dict[str, tuple[int, ...]]:
    """A checksum of the pixels of every viewer, and how many different values they have."""
    return browser.evaluate(
        """Object.fromEntries([...document.querySelectorAll("canvas")].map((canvas) => {
          const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let sum = 0;
          data.forEach((value, i) => { sum = (sum * 31 + value) % 1000000007; });
          return [canvas.id, [sum, new Set(data).size]];
        }))"""
    )


def millimetres(browser: Browser) -> list[float]:
    texts = browser.evaluate('[..."XYZ"].map((axis) => document.getElementById("mm-" + axis).textContent)')
    return [float(text.removesuffix(" mm").replace("−", "-")) for text in texts]


def slide(browser: Browser, index) -> None:
    for axis, value in zip("XYZ", index, strict=True):
        browser.evaluate(
            f"""{{ const slider = document.getElementById("cut-{axis}"); slider.value = {value};
            slider.dispatchEvent(new Event("input")); }}"""
        )


def test_the_helper_sees_requests_and_complaints(browser, tmp_path):
    file = tmp_path / "bad.html"
    file.write_text("<img src='http://images.example/a.png'><script>console.warn('w'); missing()</script>")
    browser.open(file)
    assert "http://images.example/a.png" in browser.requests
    assert any("'w'" in text for text in browser.complaints)
    assert any("missing is not defined" in text for text in browser.complaints)


@pytest.mark.parametrize("width", [1280, 380])
def test_the_page_opens_without_a_request_or_a_complaint(browser, file, tmp_path, width):
    browser.open(file, width, dark=width == 380)
    assert browser.requests == [file.as_uri()]
    assert browser.complaints == []
    assert browser.evaluate("document.documentElement.dataset.ready") == "true"
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    pixels = browser.screenshot(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 0
    assert len(np.unique(pixels.astype(np.uint32) @ [1 << 16, 1 << 8, 1])) > 50
    for key, (_, n_values) in canvases(browser).items():
        # Black, the lines of the cut and their blurred edges are all that an empty volume has.
        is_empty = "flat" in file.parent.name
        assert n_values > (3 if is_empty else 20), key


def test_a_click_moves_the_cut_of_all_viewers(browser, tmp_path):
    written(tmp_path)
    browser.open(tmp_path / "report.html", height=1400)
    before, start = canvases(browser), millimetres(browser)
    assert len(before) == 5
    box = browser.evaluate(
        'JSON.parse(JSON.stringify(document.getElementById("canvas-classical").getBoundingClientRect()))'
    )
    # A quarter into the axial plane from its left: a quarter of the way from the patient's right to the left.
    plane = box["width"] / (SHAPE[1] + 2 * SHAPE[0]) * SHAPE[0]
    browser.click(box["x"] + box["width"] - 0.75 * plane, box["y"] + 0.5 * box["height"])
    after, moved = canvases(browser), millimetres(browser)
    assert all(before[key][0] != after[key][0] for key in before)
    right_end, left_end = 20.0, -20.0
    assert moved[0] == pytest.approx(right_end + 0.25 * (left_end - right_end), abs=2)
    assert moved[2] == start[2]
    slide(browser, (3, 4, 5))
    assert millimetres(browser) == pytest.approx((AFFINE @ [3, 4, 5, 1])[:3])
    assert canvases(browser) != after


@pytest.mark.parametrize("voxel_mm", [(2, 2, 2), (2, 2, 6)])
def test_a_bright_voxel_is_where_it_belongs(browser, tmp_path, voxel_mm):
    # Right, front and top of the middle, so that every mirrored or swapped axis would show.
    volume, index = np.zeros(SHAPE, np.float32), (16, 20, 13)
    volume[index] = 1
    affine = np.diag([*map(float, voxel_mm), 1.0])
    written(tmp_path, **{**UNCONDITIONAL, "result": volume, "affine": affine})
    browser.open(tmp_path / "report.html")
    grid = Grid.of(SHAPE, affine)
    slide(browser, np.rint(np.linalg.solve(grid.affine, affine @ [*index, 1])[:3]).astype(int))
    assert millimetres(browser) == pytest.approx((affine @ [*index, 1])[:3], abs=voxel_mm[0])
    browser.evaluate('document.getElementById("crosshair").click()')
    png = browser.evaluate('document.getElementById("canvas-result").toDataURL()')
    picture = np.asarray(Image.open(BytesIO(base64.b64decode(png.split(",")[1]))).convert("L")).astype(float)
    assert picture.max() > 100
    extent = np.multiply(SHAPE, voxel_mm)
    millimetre = picture.shape[1] / (extent[1] + 2 * extent[0])
    middle = picture.shape[0] / 2
    point = (np.array(index) + 0.5) * voxel_mm
    from_right, back_to_front, up = extent[0] - point[0], point[1], point[2] - extent[2] / 2
    planes = {
        "sagittal": (0, extent[1], back_to_front, up),
        "coronal": (extent[1], extent[0], from_right, up),
        "axial": (extent[1] + extent[0], extent[0], from_right, point[1] - extent[1] / 2),
    }
    for name, (left, width, across, high) in planes.items():
        part = picture[:, round(left * millimetre) : round((left + width) * millimetre)]
        rows, columns = np.nonzero(part > 60)
        assert columns.mean() == pytest.approx(across * millimetre, abs=2.5 * millimetre), name
        assert rows.mean() == pytest.approx(middle - high * millimetre, abs=2.5 * millimetre), name


def test_the_large_view_uses_the_whole_width(browser, tmp_path):
    written(tmp_path)
    browser.open(tmp_path / "report.html")
    width = 'document.getElementById("canvas-result").width'
    before = browser.evaluate(width)
    browser.evaluate('document.getElementById("large").click()')
    assert browser.evaluate(width) > 1.8 * before


def test_no_name_runs_as_a_script_and_none_may_fetch(browser, tmp_path):
    write_report(tmp_path / "a.html", report(title=EVIL, command=EVIL, warnings=[EVIL], settings={EVIL: EVIL}))
    browser.open(tmp_path / "a.html")
    assert browser.evaluate("window.harm === undefined")
    assert browser.complaints == []
    assert browser.evaluate("document.title") == EVIL
    # Even a script that came in somehow is stopped by the page's own policy.
    violated = browser.evaluate(
        """new Promise((done) => {
          const seen = [];
          document.addEventListener("securitypolicyviolation", (event) => {
            seen.push(event.effectiveDirective);
            if (seen.length === 2) done(seen.sort());
          });
          const script = document.createElement("script");
          script.textContent = "window.harm = 3";
          document.body.append(script);
          new Image().src = "http://images.example/a.png";
        })"""
    )
    assert violated == ["img-src", "script-src-elem"]
    assert browser.evaluate("window.harm === undefined")


def test_an_oblique_volume_says_so_and_shows_world_coordinates(browser, tmp_path):
    turn = np.deg2rad(20)
    affine = AFFINE.copy()
    affine[:2, :2] = 2 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    html = written(tmp_path, affine=affine)
    assert "The volume is oblique" in html and "The volume is oblique" not in written(tmp_path)
    write_report(tmp_path / "report.html", report(affine=affine))
    browser.open(tmp_path / "report.html")
    slide(browser, (3, 4, 5))
    assert millimetres(browser) == pytest.approx((affine @ [3, 4, 5, 1])[:3], abs=0.06)


@pytest.mark.parametrize(
    ("key", "moved"),
    [
        ("ArrowLeft", (2, 0, 0)),
        ("ArrowRight", (-2, 0, 0)),
        ("PageUp", (0, 2, 0)),
        ("PageDown", (0, -2, 0)),
        ("ArrowUp", (0, 0, 2)),
        ("ArrowDown", (0, 0, -2)),
    ],
)
def test_keys_move_the_cut_by_a_voxel(browser, tmp_path, key, moved):
    written(tmp_path)
    browser.open(tmp_path / "report.html")
    before = millimetres(browser)
    browser.evaluate(
        f"""document.getElementById("canvas-truth").dispatchEvent(new KeyboardEvent("keydown", {{key: "{key}"}}))"""
    )
    assert np.subtract(millimetres(browser), before) == pytest.approx(moved)


def test_the_page_needs_no_library(tmp_path):
    html = written(tmp_path)
    assert html.count("<script") == 2
    assert "jQuery" not in html and "brainsprite" not in html


def test_a_volume_becomes_a_report_without_optional_packages(tiny_bundles, tmp_path):
    """A base installation: no head of the demonstration, none of the packages of any extra."""
    np.save(tmp_path / "head.npy", head())
    priors = [str(tiny_bundles[plane].folder) for plane in ("axial", "coronal")]
    extras = ("nilearn", "sigpy", "ismrmrd", "onnx", "mpi4py", "ray")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({extras}));"
        "from engine.run import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["--task", "csmri", "--volume", "head.npy", "--primary", priors[0], "--auxiliary", priors[1]]
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--steps", "2", "--out", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
    )
    assert done.returncode == 0, done.stderr
    assert {"recon.nii.gz", "report.html"} <= {path.name for path in (tmp_path / "out").iterdir()}
