"""A viewer of a volume, as nilearn draws it for brainsprite."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from engine.errors import InputError
from engine.report.viewers import Grid, Panel


@dataclass(frozen=True)
class Drawn:
    """A panel as nilearn draws it: a picture of all sagittal slices, and what brainsprite needs to know of it."""

    picture: str
    settings: dict[str, Any]
    library: str


def draw(panel: Panel, grid: Grid) -> Drawn:
    """Let nilearn make the viewer of a panel, and take the parts out of its page.

    A page of its own for every viewer would hold the library as often, a link to nilearn's icon, and random names.
    Slices are mirrored, so that the patient's right is on the left of coronal and axial planes.

    Raises
    ------
    InputError
        nilearn is not installed, or is of a version whose viewer is made of other parts.
    """
    try:
        import nibabel as nib
        from nilearn import __version__, plotting
    except ImportError as error:
        raise InputError(
            "report", "nilearn, which holds the viewer", "none", "`pip install nilearn` or pass --no-report"
        ) from error
    affine = np.diag([grid.edge_mm] * 3 + [1.0])
    try:
        view = plotting.view_img(
            nib.Nifti1Image(panel.data, affine),  # type: ignore[no-untyped-call]
            bg_img=None,
            cut_coords=(0, 0, 0),
            colorbar=False,
            threshold=None,
            annotate=False,
            black_bg=True,
            cmap=panel.colours,
            symmetric_cmap=False,
            vmin=panel.low,
            vmax=panel.high,
            radiological=True,
            show_lr=False,
        )
        parts = _Parts(view.html)
        start = re.search(r"\bbrainsprite\(\s*(?=\{)", parts.scripts[-1])
        settings = json.JSONDecoder().raw_decode(parts.scripts[-1], start.end())[0] if start else {}
        library = next(text for text in parts.scripts if "function brainsprite(" in text)
        kept = {"nbSlice": dict(zip("XYZ", map(int, grid.shape), strict=True)), "radiological": True}
        if any(settings.get(name) != value for name, value in kept.items()):
            raise ValueError("another grid than it was given")
        return Drawn(_few_colours(parts.overlay), settings, library.strip())
    except (AttributeError, TypeError, LookupError, StopIteration, ValueError) as error:
        raise InputError(
            "report",
            "a viewer like that of nilearn 0.14",
            f"nilearn {__version__} ({type(error).__name__}: {error})",
            "`pip install 'nilearn>=0.14'` or pass --no-report",
        ) from error


class _Parts(HTMLParser):
    """The scripts of nilearn's page, and the picture that lies over its background."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.scripts: list[str] = []
        self._in_script = False
        self._overlay = ""
        self.feed(html)
        self.close()

    @property
    def overlay(self) -> bytes:
        return base64.b64decode(self._overlay.removeprefix("data:image/png;base64,"), validate=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")
        if tag == "img" and (found.get("id") or "").startswith("overlayImg"):
            self._overlay = found.get("src") or ""

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data


def _few_colours(png: bytes) -> str:
    """Write a picture of at most 256 colours with a palette: the same pixels in a fraction of the room; base64."""
    pixels = np.asarray(Image.open(BytesIO(png)).convert("RGB"), dtype=np.uint32)
    packed = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    colours, index = np.unique(packed, return_inverse=True)
    if len(colours) <= 256:
        image = Image.fromarray(index.reshape(packed.shape).astype(np.uint8))
        image.putpalette([int(c) >> shift & 255 for c in colours for shift in (16, 8, 0)])
        stream = BytesIO()
        image.save(stream, "PNG", optimize=True)
        png = stream.getvalue()
    return base64.b64encode(png).decode()
