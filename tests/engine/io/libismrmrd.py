"""ISMRMRD files laid out as libismrmrd does, the library in C with which scanners' data are converted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

#: Samples are pairs of numbers, for which the package in Python has twice as many numbers.
PAIR = np.dtype([("real", "<f4"), ("imag", "<f4")])


def write_as_c_does(path: Path, xml: str, acquisitions: Sequence[Any]) -> Path:
    """One acquisition a chunk, with the gaps of C's structures, and a name of a field that begins with a blank.

    Source: libsrc/dataset.c of ismrmrd 1.x, `get_hdf5type_acquisition`, `append_element`, `ismrmrd_write_header`.
    """
    from ismrmrd.hdf5 import acquisition_header_dtype as head

    names = [" measurement_uid" if name == "measurement_uid" else name for name in head.names]
    head = np.dtype([(name, head.fields[old][0]) for name, old in zip(names, head.names, strict=True)])
    formats = [head, h5py.vlen_dtype(np.float32), h5py.vlen_dtype(PAIR)]
    record = {"names": ["head", "traj", "data"], "formats": formats, "offsets": [0, 344, 360], "itemsize": 376}
    with h5py.File(path, "w") as file:
        group = file.create_group("dataset")
        group.create_dataset("xml", data=[xml.encode()], dtype=h5py.string_dtype("ascii"))
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_chunk((1,))
        space = h5py.h5s.create_simple((len(acquisitions),), (h5py.h5s.UNLIMITED,))
        h5py.h5d.create(group.id, b"data", h5py.h5t.py_create(np.dtype(record), logical=True), space, created)
        for i, one in enumerate(acquisitions):
            entry = np.zeros(1, group["data"].dtype)
            entry["head"] = np.frombuffer(one.getHead(), head)
            entry["traj"][0] = one.traj.reshape(-1).astype(np.float32)
            entry["data"][0] = one.data.reshape(-1).view(PAIR)
            group["data"][i : i + 1] = entry
    return path
