"""What an ISMRMRD header says of a scan's encoding: matrices, fields of view, limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree import ElementTree

from engine.io.measurements.kspace_axes import middle
from engine.io.source import Source

#: Slices upwards, rows to the back, columns to the left: axial slices in radiological view.
DEFAULT_ORIENTATION = "SPL"
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
    noise_bandwidth : float or None
        Of the receivers, as a part of the bandwidth that a noise scan has; None where not stated.
    """

    encoded: Space
    recon: Space
    trajectory: str
    centres: tuple[int | None, int | None]
    calibration: str
    noise_bandwidth: float | None = None


def encoding_of(text: bytes, source: Source) -> Encoding:
    """Read the first encoding of an ISMRMRD header.

    Parameters
    ----------
    text : bytes
        XML in UTF-8, without a document type: entities are not expanded, because there can be none.
    source : Source

    Raises
    ------
    InputError
        No such XML, or without matrices and fields of view that are positive.
    """
    with source.reading("a header of ISMRMRD in XML"):
        parser = ElementTree.XMLParser(target=_PlainTree(source))
        # As text: the encoding that the XML declares, which could hide something, is not looked at.
        parser.feed(text.decode("utf-8").rstrip("\0"))
        root: ElementTree.Element = parser.close()
        first = root.find("{*}encoding")
    if first is None:
        raise source.refusal("a header of ISMRMRD with an encoding", "none", "write its header again")
    limits = "{*}encodingLimits/{*}kspace_encoding_step_"
    return Encoding(
        _space(first, "encodedSpace", source),
        _space(first, "reconSpace", source),
        (first.findtext("{*}trajectory") or "").strip().lower(),
        (_centre(first, f"{limits}1/{{*}}center", source), _centre(first, f"{limits}2/{{*}}center", source)),
        (first.findtext("{*}parallelImaging/{*}calibrationMode") or "").strip().lower(),
        _number(root.findtext("{*}acquisitionSystemInformation/{*}relativeReceiverNoiseBandwidth")),
    )


def grid_of(
    encoding: Encoding, rows: int, columns: int
) -> tuple[tuple[float, float, float], int, tuple[tuple[int, int], tuple[int, int]]]:
    """Return the image's grid for samples of an encoding.

    Samples lie 1/FOV apart, and so pixels are as wide as the encoded field of view over the number of samples,
    whatever matrix the header names. A readout is oversampled where the encoded field of view exceeds that of the
    image.

    Parameters
    ----------
    encoding : Encoding
    rows, columns : int
        Samples along the readout and the phase encoding.

    Returns
    -------
    spacing_mm : (float, float, float)
        Of slices, rows and columns.
    n_rows : int
        Rows without oversampling.
    crop : ((int, int), (int, int))
        The final image in those rows and in the columns.
    """
    encoded, recon = encoding.encoded, encoding.recon
    # Where the oversampling has gone already the header still tells of it.
    is_cropped = rows != encoded.matrix[0] and rows == recon.matrix[0]
    row_mm = (recon if is_cropped else encoded).fov_mm[0] / rows
    column_mm = encoded.fov_mm[1] / columns
    n_rows = max(1, min(rows, round(recon.fov_mm[0] / row_mm)))
    n_columns = max(1, min(columns, round(recon.fov_mm[1] / column_mm)))
    spacing = (encoded.fov_mm[2] / encoded.matrix[2], row_mm, column_mm)
    return spacing, n_rows, ((0, n_rows), middle(columns, n_columns))


class _PlainTree(ElementTree.TreeBuilder):
    def __init__(self, source: Source):
        super().__init__()
        self._source = source

    def doctype(self, *_: str | None) -> None:
        # Where entities are declared, which can grow without limit or name files.
        raise self._source.refusal("a header of ISMRMRD", "XML with a document type", "take that line out")


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _space(encoding: ElementTree.Element, name: str, source: Source) -> Space:
    def number(part: str, axis: str) -> float:
        try:
            return float(encoding.findtext(f"{{*}}{name}/{{*}}{part}/{{*}}{axis}") or "")
        except ValueError:
            return math.nan

    matrix = [number("matrixSize", axis) for axis in "xyz"]
    fov = [number("fieldOfView_mm", axis) for axis in "xyz"]
    is_matrix = all(1 <= n <= _MAX_MATRIX and n == int(n) for n in matrix)
    if not is_matrix or not all(_MIN_FOV_MM <= length <= _MAX_FOV_MM for length in fov):
        expected = f"a matrix of 1 to {_MAX_MATRIX} samples and a field of view in mm as {name} of the header"
        raise source.refusal(expected, f"{matrix} and {fov}", "write its header again")
    n_x, n_y, n_z = (int(n) for n in matrix)
    return Space((n_x, n_y, n_z), (fov[0], fov[1], fov[2]))


def _centre(encoding: ElementTree.Element, path: str, source: Source) -> int | None:
    text = encoding.findtext(path)
    if text is None:
        return None
    if not text.strip().isascii() or not text.strip().isdigit() or len(text.strip()) > 5:
        raise source.refusal("counters from 0 on as limits of the header", repr(text[:20]), "write its header again")
    return int(text)
