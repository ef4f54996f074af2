"""TIFF stacks and slices, as ImageJ and scientific programs write them, in and out."""

from __future__ import annotations

import json
import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from engine.errors import InputError
from engine.io.checks import MAX_DEFLATE_RATIO, check_numbers, check_shape
from engine.io.files import replacing
from engine.io.source import Origin

#: Compressions whose expansion is bounded, and can be measured before memory is given to it: none and deflate.
_NONE, _DEFLATE = 1, (8, 32946)
_PIECE = 2**20
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
_MAX_CLASSIC_BYTES = 2**32 - 2**25


def read(path: Path, stack_axis: int, argument: str) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Read a stack: pages of one shape, or ImageJ's single page with the voxels of all.

    Parameters
    ----------
    path : path
        Grey levels, not compressed or by deflate.
    stack_axis : int
        Axis of the volume that pages follow each other on; rows and columns take the other two in order.
    argument : str
        Begins the messages.

    Returns
    -------
    data : float32 (d0, d1, d2), C-contiguous
    voxel_mm : (float, float, float)
        From ImageJ's spacing and the resolution, where the file tells; else 1.

    Raises
    ------
    InputError
        Damaged; another kind of picture; channels or times; pages that the file cannot hold.
    """
    with opened(path, argument) as tif:
        pages = _pages(tif, path, argument)
        n_pages = _check_stack(pages, path, argument)
        shape = (n_pages, *pages[0].shape)
        check_shape(shape, str(path), argument)
        _check_room(pages, n_pages, path, argument)
        sides = list(shape[1:])
        sides.insert(stack_axis, n_pages)
        data = np.empty(sides, dtype=np.float32)
        stack = np.moveaxis(data, stack_axis, 0)
        with np.errstate(over="ignore", invalid="ignore"):  # infinite values are counted later
            if len(pages) == n_pages:
                for i, page in enumerate(pages):
                    stack[i] = page.asarray()
            else:
                first = pages[0]
                dtype = np.dtype(first.dtype).newbyteorder(tif.byteorder)
                stack[...] = np.memmap(path, dtype, "r", first.dataoffsets[0], shape)
        return data, _voxel_mm(pages[0], stack_axis, path, argument)


def read_slice(path: Path, argument: str) -> np.ndarray:
    """Read a picture of one page; errors as in `read`."""
    with opened(path, argument) as tif:
        pages = _pages(tif, path, argument)
        if _check_stack(pages, path, argument) != 1:
            raise InputError(argument, f"one page in '{path}'", "a stack", "give the stack instead of a folder")
        check_shape((1, *pages[0].shape), str(path), argument)
        _check_room(pages, 1, path, argument)
        array: np.ndarray = pages[0].asarray()
        return array


def voxel_mm(path: Path, stack_axis: int, argument: str) -> tuple[float, float, float]:
    """What a slice says about the size of voxels, as `read` has it."""
    with opened(path, argument) as tif:
        return _voxel_mm(_pages(tif, path, argument)[0], stack_axis, path, argument)


def write(path: Path, data: np.ndarray, voxel_mm: np.ndarray) -> None:
    """Write a float32 stack for ImageJ, atomically: pages along axis 2, rows along 0, columns along 1; sizes in mm."""
    rows_mm, columns_mm, pages_mm = (float(size) for size in voxel_mm)
    with replacing(path) as temporary:
        tifffile.imwrite(
            temporary,
            np.ascontiguousarray(np.moveaxis(np.asarray(data, dtype=np.float32), 2, 0)),
            imagej=True,
            bigtiff=data.size * 4 > _MAX_CLASSIC_BYTES,
            resolution=(1 / columns_mm, 1 / rows_mm),
            metadata={"axes": "ZYX", "spacing": pages_mm, "unit": "mm"},
        )


class _Errors(logging.Handler):
    """Collects what tifffile only logs: it goes on with the pages before a damaged one."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage())


@contextmanager
def opened(path: Path, argument: str) -> Iterator[tifffile.TiffFile]:
    """Yield a TIFF file for reading; whatever tifffile raises, or only logs, is one refusal.

    Raises
    ------
    InputError
    """
    errors, logger = _Errors(), logging.getLogger("tifffile")
    logger.addHandler(errors)
    passes_on, logger.propagate = logger.propagate, False
    try:
        with tifffile.TiffFile(path) as tif:
            yield tif
        if errors.found:
            raise ValueError(errors.found[0])
    except InputError:
        raise
    except Exception as error:  # tifffile's own, struct's, zlib's, OSError, KeyError, as the damage goes
        raise Origin(path, argument).unreadable("a TIFF stack", error) from error
    finally:
        logger.propagate = passes_on
        logger.removeHandler(errors)


def _pages(tif: tifffile.TiffFile, path: Path, argument: str) -> list[Any]:
    """All pages, of one shape and type, grey and of known size; circles of pages are refused."""
    pages: list[Any] = []
    seen: set[int] = set()
    for page in tif.pages:
        if page.offset in seen:
            raise ValueError("its pages go round in a circle")
        seen.add(page.offset)
        pages.append(page)
    if not pages:
        raise ValueError("it has no pages")
    if any(getattr(pages[0], f"is_{kind}") for kind in _KINDS):
        raise InputError(
            argument,
            "a plain or ImageJ stack",
            f"that of a microscope's program in '{path}'",
            "open it in ImageJ and save it as TIFF",
        )
    for page in pages:
        if page.dtype is None or len(page.shape) != 2 or page.samplesperpixel != 1 or int(page.photometric) > 1:
            raise InputError(
                argument,
                f"2D pages of grey levels in '{path}'",
                f"shape {page.shape} of {page.samplesperpixel} samples",
                "save grey levels",
            )
        check_numbers(np.dtype(page.dtype), str(path), argument)
    kinds = {(page.shape, str(page.dtype)) for page in pages}
    if len(kinds) > 1:
        raise InputError(
            argument, f"pages of one shape and type in '{path}'", f"{sorted(kinds)[:3]}", "remove what does not belong"
        )
    return pages


def _check_stack(pages: list[Any], path: Path, argument: str) -> int:
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
    if any(side != 1 for side in others):
        raise InputError(
            argument,
            f"slices alone in '{path}'",
            "channels, times or further axes as well",
            "save one channel and time",
        )
    if n_claimed < 1 or (len(pages) > 1 and n_claimed != len(pages)):
        raise ValueError(f"{n_claimed} slices in its description and {len(pages)} pages")
    return n_claimed


def _check_room(pages: list[Any], n_pages: int, path: Path, argument: str) -> None:
    """Refuse, before memory is given to them, pages that the file cannot hold."""
    size = path.stat().st_size
    packed = False
    for page in pages:
        packed = int(page.compression) in _DEFLATE
        if not packed and int(page.compression) != _NONE:
            raise InputError(
                argument,
                f"no compression or deflate in '{path}'",
                f"{page.compression!s}",
                "save it without compression",
            )
        n_needed = page.nbytes * (n_pages if len(pages) < n_pages else 1)
        segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        fits = bool(segments) and all(start > 0 and start + n <= size for start, n in segments)
        if not packed:
            fits = fits and (
                segments[0][0] + n_needed <= size if page.is_contiguous else sum(n for _, n in segments) >= n_needed
            )
        if not fits or (len(pages) < n_pages and not (page.is_contiguous and page.predictor == page.fillorder == 1)):
            raise InputError(
                argument,
                f"{n_needed} bytes of voxels for a page of shape {page.shape} in '{path}'",
                f"{size} bytes in all",
                "save it again",
            )
    n_bytes = pages[0].nbytes * n_pages
    if n_bytes > size * (MAX_DEFLATE_RATIO if packed else 1):
        raise InputError(
            argument,
            f"{n_bytes} bytes of voxels for {n_pages} pages of shape {pages[0].shape}",
            f"{size} bytes in '{path}'",
            "save it again",
        )
    for page in pages:
        if int(page.compression) in _DEFLATE:
            _check_segments(page)


def _check_segments(page: Any) -> None:
    """Inflate every strip or tile piece by piece: tifffile inflates them whole, whatever that becomes."""
    rows, columns = page.shape
    itemsize = np.dtype(page.dtype).itemsize
    if page.is_tiled:
        high, wide = page.tilelength, page.tilewidth
        n_segments = math.ceil(rows / high) * math.ceil(columns / wide)
    else:
        high, wide = min(page.rowsperstrip, rows), columns
        n_segments = math.ceil(rows / high)
    if len(page.dataoffsets) != n_segments:
        raise ValueError(f"{len(page.dataoffsets)} strips or tiles, {n_segments} expected")
    stream = page.parent.filehandle
    for i, (start, n_packed) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        most = high * wide * itemsize
        least = most if page.is_tiled else min(high, rows - i * high) * wide * itemsize
        stream.seek(start)
        found = _inflated_size(stream.read(n_packed), most)
        if not least <= found <= most:
            raise ValueError(f"a strip or tile of {found} bytes, {least} expected")


def _inflated_size(packed: bytes, most: int) -> int:
    """Bytes that `packed` inflates to; just above `most` if it is more."""
    inflate, n_bytes = zlib.decompressobj(), 0
    while not inflate.eof and n_bytes <= most:
        piece = inflate.decompress(packed, _PIECE)
        packed = inflate.unconsumed_tail
        n_bytes += len(piece)
        if not piece and not packed:
            raise ValueError("a strip or tile that ends early")
    return n_bytes


def _imagej(page: Any) -> dict[str, str]:
    """Lines name=value of ImageJ's description."""
    lines = (line.split("=", 1) for line in page.imagej_description.splitlines())
    return {line[0]: line[1].strip() for line in lines if len(line) == 2}


def _voxel_mm(page: Any, stack_axis: int, path: Path, argument: str) -> tuple[float, float, float]:
    fields = _imagej(page) if page.is_imagej else {}
    unit_mm = _RESOLUTION_UNITS_MM.get(int(page.tags.valueof(296, default=0)), 0.0)
    if page.is_imagej and ("unit" in fields or not unit_mm):
        unit = fields.get("unit", "")
        if unit.lower() not in _UNITS_MM:
            raise InputError(
                argument,
                f"voxels measured in mm, cm, inch, micron or nm in '{path}'",
                f"{unit!r}",
                "set the image's properties in ImageJ",
            )
        unit_mm = _UNITS_MM[unit.lower()]
    sizes = []
    for tag in (283, 282):  # YResolution, XResolution: pixels per unit, along a column and along a row
        above, below = page.tags.valueof(tag, default=(0, 0))
        sizes.append(below / above * unit_mm if above and below and unit_mm else 1.0)
    sizes.insert(stack_axis, abs(float(fields["spacing"])) * unit_mm if "spacing" in fields else 1.0)
    a, b, c = sizes
    return a, b, c
