"""NIfTI files: voxels, axes and coordinate systems, in and out."""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.imageglobals import LoggingOutputSuppressor

from engine.errors import InputError
from engine.io.checks import MAX_DEFLATE_RATIO, check_affine, check_numbers, check_shape
from engine.io.files import replacing
from engine.io.orientation import Frame
from engine.io.source import Origin

#: Size of the header, which is its first number: version 1 and 2.
_HEADERS: dict[int, Any] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_IMAGES: dict[type, Any] = {nib.Nifti1Header: nib.Nifti1Image, nib.Nifti2Header: nib.Nifti2Image}
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
class NiftiFrame(Frame):
    """A frame that keeps the header which it came from, so that a result gets the same coordinate systems.

    Parameters
    ----------
    header : Nifti1Header or Nifti2Header or None
    """

    header: Any = None


def read(path: Path, argument: str) -> tuple[np.ndarray, NiftiFrame]:
    """Read voxels with the axes of a volume.

    Whatever size a header claims, nothing is allocated that the file cannot hold; extensions are passed over unread; of
    compressed files the checksum is compared.

    Parameters
    ----------
    path : path
        NIfTI-1 or 2, one file; compressed where it ends in .gz.
    argument : str
        Begins the messages.

    Returns
    -------
    data : float32 (d0, d1, d2), C-contiguous
        x to the right, y to the front, z to the top; in the file's units, slope and intercept applied.
    frame : NiftiFrame

    Raises
    ------
    InputError
        As `load_volume` says, except what the intensities are.
    """
    packed = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            stream = cast(BinaryIO, file)
            header = _header(stream)
            shape = tuple(int(n) for n in header.get_data_shape())
            dtype = header.get_data_dtype()
            offset = int(header["vox_offset"])
            affine = np.asarray(header.get_best_affine(), dtype=np.float64)
            affine[:3] *= _UNITS_MM.get(int(header["xyzt_units"]) & 7, 1.0)
            n_extra = len(shape)
            while len(shape) > 3 and shape[-1] == 1:
                shape = shape[:-1]
            n_extra -= len(shape)
            check_shape(shape, str(path), argument)
            check_numbers(dtype, str(path), argument)
            check_affine(affine, str(path), argument)
            n_bytes = math.prod(shape) * dtype.itemsize
            n_room = path.stat().st_size * (MAX_DEFLATE_RATIO if packed else 1) - offset
            if n_bytes > n_room or not 0 <= offset <= _MAX_EXTRA:
                raise InputError(
                    argument,
                    f"{n_bytes} bytes of voxels for the header's shape {shape}",
                    f"at most {n_room} after byte {offset} in '{path}'",
                    "export the file again",
                )
            plain = Frame.of(shape, affine)
            frame = NiftiFrame(plain.order, plain.flipped, plain.affine, plain.shape, header)
            data = np.empty(frame.volume_shape, dtype=np.float32)
            of_file, _ = frame.file_of(data, frame.volume_affine)
            proxy: Any = ArrayProxy(stream, header, mmap=False)  # type: ignore[no-untyped-call]
            step = max(1, _PIECE // (shape[0] * shape[1]))
            with np.errstate(over="ignore", invalid="ignore"):  # infinite values are counted later
                for k in range(0, shape[2], step):
                    of_file[:, :, k : k + step] = proxy[(slice(None), slice(None), slice(k, k + step), *(0,) * n_extra)]
            if packed:
                _finish(stream, path, argument)
    except InputError:
        raise
    except Exception as error:  # nibabel lets its readers' own errors through: zlib, struct, OSError, ValueError
        raise Origin(path, argument).unreadable("a NIfTI image", error) from error
    return data, frame


def _header(stream: BinaryIO) -> Any:
    start = stream.read(max(_HEADERS))
    for order in ("little", "big"):
        size = int.from_bytes(start[:4], order)  # type: ignore[arg-type]
        if size in _HEADERS and len(start) >= size:
            # What it finds to say of a damaged header is said below, in one sentence.
            with LoggingOutputSuppressor():
                header = _HEADERS[size](start[:size])
            if bytes(header["magic"].tobytes()[:3]) not in (b"n+1", b"n+2"):
                raise ValueError("header and voxels in two files")
            return header
    raise ValueError("no NIfTI header at its beginning")


def _finish(stream: BinaryIO, path: Path, argument: str) -> None:
    """Read what is left: only at its end a compressed file's checksum is compared."""
    n_left = 0
    while piece := stream.read(2**20):
        n_left += len(piece)
        if n_left > _MAX_EXTRA:
            raise InputError(
                argument,
                f"'{path}' to end after its voxels",
                f"more than {_MAX_EXTRA} further bytes",
                "export the file again",
            )


def write(path: Path, data: np.ndarray, affine: np.ndarray, frame: Frame | None = None) -> None:
    """Write a NIfTI file, atomically; the same voxels give the same bytes.

    Parameters
    ----------
    path : path
        Compressed where it ends in .gz.
    data : float32 (n0, n1, n2)
        With the axes of the file.
    affine : float64 (4, 4)
        Its voxel indices to mm.
    frame : Frame or None
        A NiftiFrame restores its file's version, codes and coordinate systems: to the bit where shape and affine are
        those of its file, else both forms are moved to the new grid.
    """
    header = None
    if isinstance(frame, NiftiFrame) and frame.header is not None:
        header = _placed(frame, data.shape, affine)
    if header is None:
        # Version 1 unless it cannot hold the shape.
        image = (nib.Nifti1Image if max(data.shape) <= _MAX_AXIS else nib.Nifti2Image)(data, affine)  # type: ignore[no-untyped-call]
        image.header.set_xyzt_units("mm")
    else:
        image = _IMAGES[type(header)](data, header.get_best_affine(), header)
    with replacing(path) as temporary, temporary.open("wb") as raw:
        if path.name.lower().endswith(".gz"):
            # Neither a name nor a time in the file; level 1, for noise hardly shrinks further.
            with gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as stream:
                image.to_stream(stream)
        else:
            image.to_stream(raw)


def _placed(frame: NiftiFrame, shape: tuple[int, ...], affine: np.ndarray) -> Any:
    """A header of float32 voxels with the coordinate systems of the frame's file; None where it has none to keep."""
    old = frame.header
    header = type(old)()
    header.set_data_dtype(np.float32)
    header.set_data_shape(shape)
    if tuple(shape) == frame.shape and np.array_equal(affine, frame.affine):
        for field in _PLACE:
            header[field] = old[field]
        return header
    q_code, s_code = int(old["qform_code"]), int(old["sform_code"])
    if not q_code and not s_code:
        return None
    # Both forms see the same change of the grid, also where they are different spaces (scanner and atlas).
    in_mm = np.diag([*[_UNITS_MM.get(int(old["xyzt_units"]) & 7, 1.0)] * 3, 1.0])
    moved = np.linalg.inv(frame.affine) @ affine
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
