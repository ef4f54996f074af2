"""TIFF stacks and slices, as ImageJ and scientific programs write them, in and out."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from engine.io.checks import MAX_DEFLATE_RATIO, check_numbers, check_room
from engine.io.files import replacing
from engine.io.guard import allow, guarded
from engine.io.source import Source

#: Programs whose files keep slices elsewhere than in pages, in other orders, or in other files.
_KINDS = ("ome", "stk", "lsm", "micromanager", "fluoview", "scanimage")
#: ImageJ's names of units, in mm; what names no length counts voxels, taken as mm.
_UNITS_MM = {
    **{"mm": 1.0, "millimeter": 1.0, "cm": 10.0, "centimeter": 10.0, "m": 1000.0, "meter": 1000.0, "inch": 25.4},
    **{"micron": 1e-3, "micrometer": 1e-3, "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "\\u00b5m": 1e-3, "nm": 1e-6},
    **{"": 1.0, "pixel": 1.0, "pixels": 1.0, "voxel": 1.0},
}
#: ResolutionUnit: inch, cm.
_RESOLUTION_UNITS_MM = {2: 25.4, 3: 10.0}
#: From here on offsets need 64 bits.
MAX_CLASSIC_BYTES = 2**32 - 2**25


@guarded("a TIFF stack", "tifffile")
def read(source: Source, *, is_volume: bool = True) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Read pages of grey levels, all of one shape and type, or ImageJ's single page with the pixels of all.

    Parameters
    ----------
    source : Source
    is_volume : bool
        Whether pages have to be slices, and the size of voxels is asked for.

    Returns
    -------
    data : (n_pages, rows, columns)
        Of the file's type.
    voxel_mm : (float, float, float)
        From page to page, row to row and column to column: from ImageJ's spacing and the resolution, where the file
        tells; else 1.

    Raises
    ------
    InputError
        Damaged; another kind of picture; channels or times; pages that the file cannot hold.
    """
    return _read(source, is_volume)


@guarded("TIFF slices", "tifffile")
def read_slices(source: Source, names: list[str]) -> tuple[list[np.ndarray], tuple[float, float, float]]:
    """Read the pictures of a folder, of one page each; sizes of voxels are those of the first, as in `read`."""
    slices: list[np.ndarray] = []
    voxel_mm = (1.0, 1.0, 1.0)
    for name in names:
        file = Source(source.path / name, source.argument)
        with file.reading("a TIFF slice"):
            data, size = _read(file, True)
        if len(data) != 1:
            raise file.refusal("one page", "a stack", "give the stack instead of a folder")
        slices.append(data[0])
        voxel_mm = voxel_mm if len(slices) > 1 else size
    return slices, voxel_mm


def _read(source: Source, is_volume: bool) -> tuple[np.ndarray, tuple[float, float, float]]:
    import tifffile

    errors = _Errors()
    logging.getLogger("tifffile").handlers = [errors]
    with tifffile.TiffFile(source.path) as tif:
        pages = _pages(tif, source)
        first, n_pages = pages[0], _n_slices(pages, is_volume, source)
        shape, dtype = (n_pages, *first.shape), np.dtype(first.dtype)
        is_packed = any(int(page.compression) != 1 for page in pages)
        check_room(shape, dtype, source, MAX_DEFLATE_RATIO if is_packed else 1)
        allow(math.prod(shape) * dtype.itemsize, source)
        if len(pages) == n_pages:
            data = np.empty(shape, dtype)
            for page, array in zip(pages, data, strict=True):
                array[...] = page.asarray(maxworkers=1)
        else:
            tif.filehandle.seek(first.dataoffsets[0])
            data = tif.filehandle.read_array(dtype.newbyteorder(tif.byteorder), math.prod(shape)).reshape(shape)
        if errors.messages:
            raise ValueError(errors.messages[0])
        return data, _voxel_mm(first, source) if is_volume else (1.0, 1.0, 1.0)


class _Errors(logging.Handler):
    """Collects what tifffile only logs: it goes on with the pages before a damaged one."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def write(path: Path, data: np.ndarray, voxel_mm: np.ndarray) -> None:
    """Write a float32 stack for ImageJ, atomically: pages along axis 2, rows along 0, columns along 1; sizes in mm."""
    import tifffile

    rows_mm, columns_mm, pages_mm = (float(size) for size in voxel_mm)
    with replacing(path) as temporary:
        tifffile.imwrite(
            temporary,
            np.ascontiguousarray(np.moveaxis(np.asarray(data, dtype=np.float32), 2, 0)),
            imagej=True,
            bigtiff=data.size * 4 > MAX_CLASSIC_BYTES,
            resolution=(1 / columns_mm, 1 / rows_mm),
            metadata={"axes": "ZYX", "spacing": pages_mm, "unit": "mm"},
        )


def _pages(tif: Any, source: Source) -> list[Any]:
    """All pages, of one shape and type, and grey; circles of pages are refused."""
    pages: list[Any] = []
    offsets: set[int] = set()
    for page in tif.pages:
        if page.offset in offsets:
            raise ValueError("its pages go round in a circle")
        offsets.add(page.offset)
        pages.append(page)
    if not pages:
        raise ValueError("it has no pages")
    if any(getattr(pages[0], f"is_{kind}") for kind in _KINDS):
        expected = "a plain or ImageJ stack"
        raise source.refusal(expected, "that of a microscope's program", "open it in ImageJ and save it as TIFF")
    for page in pages:
        if page.dtype is None or len(page.shape) != 2 or page.samplesperpixel != 1 or int(page.photometric) > 1:
            got = f"shape {page.shape} of {page.samplesperpixel} samples"
            raise source.refusal("2D pages of grey levels", got, "save grey levels")
        check_numbers(np.dtype(page.dtype), source)
    kinds = {(page.shape, str(page.dtype)) for page in pages}
    if len(kinds) > 1:
        raise source.refusal("pages of one shape and type", f"{sorted(kinds)[:3]}", "remove what does not belong")
    return pages


def _n_slices(pages: list[Any], is_volume: bool, source: Source) -> int:
    """Number of slices: where the description claims axes, one of them, as long as there are pages."""
    others, n_claimed = [1], len(pages)
    if pages[0].is_imagej:
        fields = _imagej(pages[0])
        others = [int(fields.get(name, 1)) for name in ("channels", "frames")]
        n_claimed = int(fields.get("images", 1))
    elif pages[0].is_shaped:
        sides = [int(side) for side in json.loads(pages[0].shaped_description)["shape"][:-2]]
        others = sorted(sides)[:-1]
        # Pages written one by one all have their own description.
        n_claimed = math.prod(sides) if math.prod(sides) != 1 else len(pages)
    if is_volume and any(side != 1 for side in others):
        raise source.refusal("slices alone", "channels, times or further axes as well", "save one channel and time")
    is_plain = pages[0].is_contiguous and pages[0].compression == pages[0].predictor == pages[0].fillorder == 1
    if n_claimed < 1 or (n_claimed != len(pages) and not (len(pages) == 1 and is_plain)):
        raise ValueError(f"{n_claimed} slices in its description and {len(pages)} pages")
    return n_claimed


def _imagej(page: Any) -> dict[str, str]:
    """Lines name=value of ImageJ's description."""
    lines = (line.split("=", 1) for line in page.imagej_description.splitlines())
    return {line[0]: line[1].strip() for line in lines if len(line) == 2}


def _voxel_mm(page: Any, source: Source) -> tuple[float, float, float]:
    fields = _imagej(page) if page.is_imagej else {}
    unit_mm = _RESOLUTION_UNITS_MM.get(int(page.tags.valueof(296, default=0)), 0.0)
    if page.is_imagej and ("unit" in fields or not unit_mm):
        unit = fields.get("unit", "")
        if unit.lower() not in _UNITS_MM:
            expected = "voxels measured in mm, cm, inch, micron or nm"
            raise source.refusal(expected, f"{unit!r}", "set the image's properties in ImageJ")
        unit_mm = _UNITS_MM[unit.lower()]
    sizes = []
    for tag in (283, 282):  # YResolution, XResolution: pixels per unit, along a column and along a row
        above, below = page.tags.valueof(tag, default=(0, 0))
        sizes.append(below / above * unit_mm if above and below and unit_mm else 1.0)
    return abs(float(fields["spacing"])) * unit_mm if "spacing" in fields else 1.0, sizes[0], sizes[1]
