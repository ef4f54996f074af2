"""What an ISMRMRD header says of a scan's encoding: matrices, fields of view, limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree import ElementTree

from engine.io.source import Origin

#: Counters of ISMRMRD have 16 bits.
_MAX_MATRIX = 65535
#: No scanner is longer, and no microscope sees less, in mm.
_MIN_FOV_MM, _MAX_FOV_MM = 1e-3, 1e4


@dataclass(frozen=True)
class Space:
    """A grid and the box that it covers.

    Parameters
    ----------
    matrix : (int, int, int)
        Samples along readout, phase encoding and partitions.
    fov_mm : (float, float, float)
        Lengths along the same.
    """

    matrix: tuple[int, int, int]
    fov_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Encoding:
    """How a scan was encoded.

    Parameters
    ----------
    encoded, recon : Space
        What was sampled, and what its image should be cropped to.
    trajectory : str
        "cartesian" or another word of ISMRMRD; empty where the header has none.
    centres : (int or None, int or None)
        Counters of the phase encoding and the partition through the centre of k-space; None where not stated.
    calibration : str
        Mode of the calibration lines, such as "embedded"; empty where not stated.
    """

    encoded: Space
    recon: Space
    trajectory: str
    centres: tuple[int | None, int | None]
    calibration: str


def encoding_of(text: bytes, origin: Origin) -> Encoding:
    """Read the first encoding of an ISMRMRD header.

    Parameters
    ----------
    text : bytes
        XML in UTF-8, without a document type: entities are not expanded, because there can be none.
    origin : Origin

    Raises
    ------
    InputError
        No such XML, or without matrices and fields of view that are positive.
    """
    with origin.reading("a header of ISMRMRD in XML"):
        parser = ElementTree.XMLParser(target=_PlainTree(origin))
        # As text: the encoding that the XML declares, which could hide something, is not looked at.
        parser.feed(text.decode("utf-8").rstrip("\0"))
        root: ElementTree.Element = parser.close()
        first = root.find("{*}encoding")
    if first is None:
        raise origin.refusal("a header of ISMRMRD with an encoding", "none", "write its header again")
    limits = "{*}encodingLimits/{*}kspace_encoding_step_"
    return Encoding(
        _space(first, "encodedSpace", origin),
        _space(first, "reconSpace", origin),
        (first.findtext("{*}trajectory") or "").strip().lower(),
        (_centre(first, f"{limits}1/{{*}}center", origin), _centre(first, f"{limits}2/{{*}}center", origin)),
        (first.findtext("{*}parallelImaging/{*}calibrationMode") or "").strip().lower(),
    )


class _PlainTree(ElementTree.TreeBuilder):
    def __init__(self, origin: Origin):
        super().__init__()
        self._origin = origin

    def doctype(self, *_: str | None) -> None:
        # Where entities are declared, which can grow without limit or name files.
        raise self._origin.refusal("a header of ISMRMRD", "XML with a document type", "take that line out")


def _space(encoding: ElementTree.Element, name: str, origin: Origin) -> Space:
    def number(part: str, axis: str) -> float:
        try:
            return float(encoding.findtext(f"{{*}}{name}/{{*}}{part}/{{*}}{axis}") or "")
        except ValueError:
            return math.nan

    matrix = [number("matrixSize", axis) for axis in "xyz"]
    fov = [number("fieldOfView_mm", axis) for axis in "xyz"]
    is_matrix = all(1 <= n <= _MAX_MATRIX and n == int(n) for n in matrix)
    if not is_matrix or not all(_MIN_FOV_MM <= length <= _MAX_FOV_MM for length in fov):
        raise origin.refusal(
            f"a matrix of 1 to {_MAX_MATRIX} samples and a field of view in mm as {name} of the header",
            f"{matrix} and {fov}",
            "write its header again",
        )
    n_x, n_y, n_z = (int(n) for n in matrix)
    return Space((n_x, n_y, n_z), (fov[0], fov[1], fov[2]))


def _centre(encoding: ElementTree.Element, path: str, origin: Origin) -> int | None:
    text = encoding.findtext(path)
    if text is None:
        return None
    if not text.strip().isascii() or not text.strip().isdigit() or len(text.strip()) > 5:
        raise origin.refusal("counters from 0 on as limits of the header", repr(text[:20]), "write its header again")
    return int(text)
