"""NIfTI files: voxels, axes and coordinate systems, in and out."""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from engine.io.checks import MAX_DEFLATE_RATIO, check_affine, check_frame, check_numbers, check_room, check_shape
from engine.io.files import replacing
from engine.io.guard import allow, guarded
from engine.io.orientation import Orientation
from engine.io.source import Source
from engine.io.volumes import sidecar

#: Version of a header by its size, which is its first number.
_VERSIONS = {348: 1, 540: 2}
#: Magic numbers where header and voxels are in one file, and in two.
_ONE_FILE, _TWO_FILES = (b"n+1", b"n+2"), (b"ni1", b"ni2")
#: Endings of the two files.
PAIRS = {".hdr": ".img", ".hdr.gz": ".img.gz"}
#: Units of time in seconds, by their number in xyzt_units.
_UNITS_S = {8: 1.0, 16: 1e-3, 24: 1e-6}
#: Of what a header says about place: restored to the bit where a result lies where its file did.
_PLACE = (
    *("pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y"),
    *("qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)
#: Units of space in mm, by their number in xyzt_units; 0, unknown, is taken for mm.
_UNITS_MM = {1: 1000.0, 3: 0.001}
#: Voxels that are brought to float32 at a time.
_PIECE = 2**22
#: Bytes that may follow the voxels, or stand between header and voxels (extensions).
_MAX_EXTRA = 2**25
#: The largest axis that a header of version 1 can hold.
_MAX_AXIS = 32767


@dataclass(frozen=True)
class NiftiOrientation(Orientation):
    """An orientation that keeps the header which it came from, so that a result gets the same coordinate systems.

    Parameters
    ----------
    header : bytes
        Of NIfTI-1 or 2, without extensions.
    """

    header: bytes = b""


@guarded("a NIfTI image", "nibabel")
def read(source: Source, frame: int | None = None) -> tuple[np.ndarray, NiftiOrientation]:
    """Read voxels with the axes of a volume.

    Extensions are passed over unread; of compressed files the checksum is compared.

    Parameters
    ----------
    source : Source
        NIfTI-1 or 2, one file, or any of a pair with endings of `PAIRS`; compressed where it ends in .gz.
    frame : int or None
        Which volume, counted from 0, where there are several; the first of further axes runs fastest.

    Returns
    -------
    data : float32 (d0, d1, d2), C-contiguous
        x to the right, y to the front, z to the top; in the file's units, slope and intercept applied.
    orientation : NiftiOrientation

    Raises
    ------
    InputError
        As `load_volume` says, except what the intensities are.
    """
    from nibabel.arrayproxy import ArrayProxy

    of_header, of_voxels = _files(source)
    packed = of_voxels.path.name.lower().endswith(".gz")
    with _opened(of_header.path) as file:
        header = _header(file.read(max(_VERSIONS)), of_header, _ONE_FILE if of_header == of_voxels else _TWO_FILES)
    with _opened(of_voxels.path) as stream:
        dtype, offset = header.get_data_dtype(), int(header["vox_offset"])
        every = tuple(int(n) for n in header.get_data_shape())
        shape, further = every[:3], every[3:]
        check_shape(shape, source)
        check_numbers(dtype, source)
        which = check_frame(frame, math.prod(further), source, _differing(header, of_voxels.path))
        affine = np.asarray(header.get_best_affine(), dtype=np.float64)
        affine[:3] *= _UNITS_MM.get(int(header["xyzt_units"]) & 7, 1.0)
        check_affine(affine, source)
        if not 0 <= offset <= _MAX_EXTRA:
            raise source.refusal(f"voxels within {_MAX_EXTRA} bytes", f"byte {offset}", "export the file again")
        check_room(every, dtype, of_voxels, MAX_DEFLATE_RATIO if packed else 1)
        allow(math.prod(shape) * max(4, dtype.itemsize), source)
        plain = Orientation.of(shape, affine)
        orientation = NiftiOrientation(plain.order, plain.flipped, plain.affine, plain.shape, header.binaryblock)
        proxy: Any = ArrayProxy(stream, header, mmap=False)  # type: ignore[no-untyped-call]
        data = voxels_of(proxy, orientation, tuple(int(i) for i in np.unravel_index(which, further, order="F")))
        if packed:
            # Only at its end a compressed file's checksum is compared.
            n_most = offset + math.prod(every) * dtype.itemsize - stream.tell() + _MAX_EXTRA
            n_left = sum(map(len, iter(lambda: stream.read(2**20), b"")))
            if n_left > n_most:
                raise source.refusal("an end after its voxels", f"{n_left} further bytes", "export the file again")
    return data, orientation


def voxels_of(proxy: Any, orientation: Orientation, further: tuple[int, ...] = ()) -> np.ndarray:
    """Read the voxels of a file piece by piece.

    Parameters
    ----------
    proxy : nibabel.arrayproxy.ArrayProxy
    orientation : Orientation
        Of the first three axes.
    further : tuple of int
        Places on further axes.

    Returns
    -------
    float32 (d0, d1, d2), C-contiguous
        With the axes of a volume.
    """
    data = np.empty(orientation.volume_shape, dtype=np.float32)
    of_file, _ = orientation.file_of(data, orientation.volume_affine)
    rows, columns, n_slices = orientation.shape
    step = max(1, _PIECE // (rows * columns))
    with np.errstate(over="ignore", invalid="ignore"):  # infinite values are counted later
        for k in range(0, n_slices, step):
            of_file[:, :, k : k + step] = proxy[(slice(None), slice(None), slice(k, k + step), *further)]
    return data


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb"))


def _files(source: Source) -> tuple[Source, Source]:
    """The files of header and voxels, which may be one."""
    name = source.path.name
    for header, voxels in PAIRS.items():
        for own, other in ((header, voxels), (voxels, header)):
            if name.lower().endswith(own):
                # In the case of the name that was given.
                other = other.upper() if name.endswith(own.upper()) else other
                partner = Source(source.path.with_name(name[: -len(own)] + other), source.argument)
                if not partner.path.is_file():
                    got = f"no '{partner.path.name}' beside it"
                    raise source.refusal("both files of a NIfTI pair", got, "put them into one folder")
                return (source, partner) if own == header else (partner, source)
    return source, source


def _differing(header: Any, path: Path) -> str:
    """What is known of the volumes of a file: their b-values, or the time between them."""
    values = sidecar.b_values(path)
    if values:
        levels = sorted({round(value) for value in values})
        return f"with b-values {', '.join(map(str, levels[:6]))}{', ...' if len(levels) > 6 else ''} s/mm²"
    if header["dim"][0] != 4:
        return ""
    seconds = float(header["pixdim"][4]) * _UNITS_S.get(int(header["xyzt_units"]) & 56, 0.0)
    return f"{seconds:g} s apart" if math.isfinite(seconds) and seconds > 0 else ""


def _header(start: bytes, source: Source | None = None, magics: tuple[bytes, ...] = ()) -> Any:
    """A header from its bytes: checked, where it is that of a source with these magic numbers."""
    import nibabel as nib

    for order in ("little", "big"):
        size = int.from_bytes(start[:4], order)  # type: ignore[arg-type]
        if size in _VERSIONS and len(start) >= size:
            kind = nib.Nifti1Header if _VERSIONS[size] == 1 else nib.Nifti2Header
            header = kind(start[:size], check=False)
            magic = bytes(header["magic"].tobytes()[:3])
            if source is None:
                return header
            if magic in magics:
                return kind(start[:size], check=True)
            if magics == _TWO_FILES and magic not in _ONE_FILE:
                expected, remedy = "a NIfTI header", "convert it to NIfTI, with the side that is left checked"
                raise source.refusal(expected, "Analyze 7.5, which does not say where left is,", remedy)
            raise ValueError(
                "header and voxels in one file" if magic in _ONE_FILE else "header and voxels in two files"
            )
    raise ValueError("no NIfTI header at its beginning")


def write(path: Path, data: np.ndarray, affine: np.ndarray, orientation: Orientation | None = None) -> None:
    """Write a NIfTI file, atomically; the same voxels give the same bytes.

    Parameters
    ----------
    path : path
        Compressed where it ends in .gz.
    data : float32 (n0, n1, n2)
        With the axes of the file.
    affine : float64 (4, 4)
        Its voxel indices to mm.
    orientation : Orientation or None
        A NiftiOrientation restores its file's version, codes and coordinate systems: to the bit where shape and affine
        are those of its file, else both forms are moved to the new grid.
    """
    image = _image(data, affine, orientation)
    with replacing(path) as temporary, temporary.open("wb") as raw:
        if path.name.lower().endswith(".gz"):
            # Neither a name nor a time in the file; level 1, for noise hardly shrinks further.
            with gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as stream:
                image.to_stream(stream)
        else:
            image.to_stream(raw)


def _image(data: np.ndarray, affine: np.ndarray, orientation: Orientation | None) -> Any:
    import nibabel as nib

    header = None
    if isinstance(orientation, NiftiOrientation) and orientation.header:
        header = _placed(orientation, data.shape, affine)
    if header is None:
        # Version 1 unless it cannot hold the shape.
        image = (nib.Nifti1Image if max(data.shape) <= _MAX_AXIS else nib.Nifti2Image)(data, affine)  # type: ignore[no-untyped-call]
        image.header.set_xyzt_units("mm")
    else:
        kind = nib.Nifti1Image if type(header) is nib.Nifti1Header else nib.Nifti2Image
        image = kind(data, header.get_best_affine(), header)  # type: ignore[no-untyped-call]
    return image


def _placed(orientation: NiftiOrientation, shape: tuple[int, ...], affine: np.ndarray) -> Any:
    """A header of float32 voxels with the coordinate systems of the file; None where it has none to keep."""
    old = _header(orientation.header)
    header = type(old)()
    header.set_data_dtype(np.float32)
    header.set_data_shape(shape)
    if tuple(shape) == orientation.shape and np.array_equal(affine, orientation.affine):
        for field in _PLACE:
            header[field] = old[field]
        return header
    q_code, s_code = int(old["qform_code"]), int(old["sform_code"])
    if not q_code and not s_code:
        return None
    # Both forms see the same change of the grid, also where they are different spaces (scanner and atlas).
    in_mm = np.diag([*[_UNITS_MM.get(int(old["xyzt_units"]) & 7, 1.0)] * 3, 1.0])
    moved = np.linalg.inv(orientation.affine) @ affine
    if s_code:
        form = in_mm @ old.get_sform() @ moved
        header.set_sform(form, s_code)
        header.set_zooms(np.sqrt((form[:3, :3] ** 2).sum(axis=0)))
    if q_code and (other := _qform_of(old)) is not None:
        form = in_mm @ other @ moved
        header.set_qform(form, q_code)
        if not s_code and not np.allclose(header.get_qform(), form, rtol=1e-4, atol=1e-4):
            header.set_sform(form, q_code)  # a sheared grid, which no qform can tell
    header.set_xyzt_units("mm")
    return header


def _qform_of(header: Any) -> np.ndarray | None:
    """The affine of a header's qform; None where its numbers are none, and the file's place is that of the sform."""
    try:
        form = np.asarray(header.get_qform(), np.float64)
    except Exception:  # nibabel's own, of quaternions that are none
        return None
    return form if np.isfinite(form).all() else None
