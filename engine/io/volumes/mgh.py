"""FreeSurfer's volumes, .mgz and .mgh, in."""

from __future__ import annotations

import gzip
import math
from typing import Any, BinaryIO, cast

import numpy as np

from engine.io.checks import MAX_DEFLATE_RATIO, check_affine, check_frame, check_numbers, check_room, check_shape
from engine.io.guard import allow, guarded
from engine.io.orientation import Orientation
from engine.io.source import Source
from engine.io.volumes.nifti import voxels_of

#: Bytes before the voxels.
_HEADER_BYTES = 284


@guarded("a FreeSurfer volume", "nibabel", "nibabel.freesurfer.mghformat")
def read(source: Source, frame: int | None = None) -> tuple[np.ndarray, Orientation]:
    """Read voxels with the axes of a volume; of compressed files the checksum is compared.

    Parameters
    ----------
    source : Source
        Compressed where it ends in .mgz or .gz.
    frame : int or None
        Which volume, counted from 0, where there are several.

    Returns
    -------
    data : float32 (d0, d1, d2), C-contiguous
        x to the right, y to the front, z to the top.
    orientation : Orientation

    Raises
    ------
    InputError
        As `load_volume` says, except what the intensities are.
    """
    from nibabel.arrayproxy import ArrayProxy
    from nibabel.freesurfer.mghformat import MGHHeader

    packed = source.path.name.lower().endswith((".mgz", ".gz"))
    with gzip.open(source.path) if packed else source.path.open("rb") as file:
        stream = cast(BinaryIO, file)
        header: Any = MGHHeader(stream.read(_HEADER_BYTES))  # type: ignore[no-untyped-call]
        dtype = header.get_data_dtype()
        every = tuple(int(n) for n in header.get_data_shape())
        shape, further = every[:3], every[3:]
        check_shape(shape, source)
        check_numbers(dtype, source)
        which = check_frame(frame, math.prod(further), source)
        affine = np.asarray(header.get_affine(), np.float64)
        check_affine(affine, source)
        check_room(every, dtype, source, MAX_DEFLATE_RATIO if packed else 1)
        allow(math.prod(shape) * max(4, dtype.itemsize), source)
        orientation = Orientation.of(shape, affine)
        proxy = ArrayProxy(stream, header, mmap=False)  # type: ignore[no-untyped-call]
        data = voxels_of(proxy, orientation, (which,) if further else ())
        if packed:
            # Only at its end the checksum is compared; what follows the voxels are times and names.
            for _ in iter(lambda: stream.read(2**20), b""):
                pass
    return data, orientation
