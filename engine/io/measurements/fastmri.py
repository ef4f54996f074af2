"""Read and write k-space in the layout of the fastMRI data sets: HDF5 with a dataset `kspace`."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from engine.io.files import replacing
from engine.io.hdf5 import attribute_of, has, member_of, text_of, word_of
from engine.io.measurements.kspace_axes import Samples, affine_of, centre, letters_of
from engine.io.measurements.kspace_data import KSpace
from engine.io.measurements.mri_header import DEFAULT_ORIENTATION, Encoding, encoding_of, grid_of
from engine.io.source import Source

#: Farther away lies no voxel, and none is smaller.
_MAX_MM, _MIN_VOXEL_MM3 = 1e6, 1e-12
_OWN_ORIENTATIONS = {"".join(letters) for letters in permutations("RAS")}
#: Attributes of files that this module wrote.
_ORIENTATION, _AFFINE, _CROP, _NOISE = "tpdm_orientation", "tpdm_affine", "tpdm_crop", "tpdm_noise"


def read_fastmri(file: Any, orientation: str | None, source: Source) -> Samples:
    """Read `kspace` with what lies beside it.

    Parameters
    ----------
    file : h5py.File
        `kspace` complex (n_slices, rows, columns) or (n_slices, n_coils, rows, columns); where present, `mask` of
        (columns,) or (rows, columns) and `ismrmrd_header`, without which voxels count as 1 mm.
    orientation : str or None
        Where slices, rows and columns count to. None: as the file says, else `DEFAULT_ORIENTATION`.
    source : Source

    Raises
    ------
    InputError
        Another rank or type, or a mask or header that does not fit.
    """
    dataset = member_of(file, "kspace", source)
    shape, dtype = dataset.shape, dataset.dtype
    if len(shape) not in (3, 4) or 0 in shape or dtype.kind != "c" or dtype.itemsize > 16:
        expected = "complex (n_slices, rows, columns) or (n_slices, n_coils, rows, columns) as 'kspace'"
        raise source.refusal(expected, f"{dtype} {shape}", "write one scan a file")
    data = np.empty(shape, np.complex64)
    dataset.read_direct(data)
    if data.ndim == 4 and data.shape[1] == 1:
        data = data[:, 0]
    n_slices, (rows, columns) = len(data), data.shape[-2:]
    kept = word_of(file, _ORIENTATION, source)
    if kept is not None and kept not in _OWN_ORIENTATIONS:
        raise source.refusal("letters of RAS as orientation", repr(kept), "save the file again")
    encoding = _encoding(file, source)
    if encoding is None:
        spacing, n_rows, crop = (1.0, 1.0, 1.0), rows, ((0, rows), (0, columns))
    else:
        spacing, n_rows, crop = grid_of(encoding, rows, columns)
    volume_affine = noise = None
    if kept is not None:
        n_rows, crop = rows, _own_crop(file, rows, columns, source)
        volume_affine = _own_affine(file, source) if orientation is None else None
        level = attribute_of(file, _NOISE, (), source)
        noise = None if level is None else float(level)
    letters = orientation if orientation is not None else kept if kept is not None else DEFAULT_ORIENTATION
    affine = affine_of(letters, (n_slices, rows, columns), spacing)
    return Samples(
        data, _mask(file, (rows, columns), source), kept is not None, affine, n_rows, crop, volume_affine, noise
    )


def _encoding(file: Any, source: Source) -> Encoding | None:
    name = "ismrmrd_header"
    if not has(file, name):
        return None
    return encoding_of(text_of(member_of(file, name, source), name, source), source)


def _mask(file: Any, shape: tuple[int, int], source: Source) -> np.ndarray | None:
    if not has(file, "mask"):
        return None
    dataset = member_of(file, "mask", source)
    if dataset.shape not in ((shape[1],), shape) or dataset.dtype.kind not in "buif":
        expected = f"numbers {shape[1:]} or {shape} as 'mask'"
        raise source.refusal(expected, f"{dataset.dtype} {dataset.shape}", "write the mask again")
    return np.asarray(dataset[()])


def _own_crop(file: Any, rows: int, columns: int, source: Source) -> tuple[tuple[int, int], tuple[int, int]]:
    crop = attribute_of(file, _CROP, (2, 2), source)
    if crop is None:
        return (0, rows), (0, columns)
    if not ((crop[:, 0] >= 0) & (crop[:, 0] < crop[:, 1]) & (crop[:, 1] <= (rows, columns))).all():
        raise source.refusal("a crop within the image", f"{crop.tolist()}", "save the file again")
    (first, stop), (left, right) = crop.astype(int).tolist()
    return (first, stop), (left, right)


def _own_affine(file: Any, source: Source) -> np.ndarray | None:
    affine = attribute_of(file, _AFFINE, (4, 4), source)
    if affine is None:
        return None
    is_affine = (abs(affine) < _MAX_MM).all() and (affine[3] == (0, 0, 0, 1)).all()
    if not (is_affine and abs(np.linalg.det(affine[:3, :3])) > _MIN_VOXEL_MM3):
        raise source.refusal("an affine of independent axes, in mm", f"{affine.tolist()}", "save the file again")
    return affine


def save_fastmri(path: str | Path, kspace: KSpace, *, noise: float | None = None) -> None:
    """Write k-space in the layout of fastMRI, atomically; `load_kspace` gets it back up to float32 rounding.

    Readers of fastMRI find `kspace`, `mask` and an `ismrmrd_header` whose fields of view hold the voxel sizes.
    Attributes of this project keep orientation, affine and crop exactly.

    Parameters
    ----------
    path : path
        Usually ends in ``.h5``.
    kspace : KSpace
        Its rows become those of the file. Where they do not keep the order of the volume's axes (no plane with a name
        is like that), they are swapped with the columns when the file is read.
    noise : float or None
        As `KSpace.noise_level`, and instead of it.
    """
    import h5py

    h, w = kspace.mask.shape
    level = kspace.noise_level if noise is None else noise
    # Contiguous: compressed, the zeros of a fast scan are hard to tell from a bomb.
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        samples = file.create_dataset("kspace", kspace.data.shape, np.complex64)
        for i, part in enumerate(kspace.data):
            samples[i] = centre(part)
        is_of_lines = bool((kspace.mask == kspace.mask[:1]).all())
        file["mask"] = kspace.mask[0] if is_of_lines else kspace.mask
        file["ismrmrd_header"] = _header(kspace)
        file.attrs[_ORIENTATION] = np.bytes_(letters_of(kspace.plane))
        file.attrs[_AFFINE] = kspace.affine
        file.attrs[_CROP] = np.asarray(kspace.crop)
        if level is not None:
            file.attrs[_NOISE] = level / np.sqrt(h * w)


def _header(kspace: KSpace) -> str:
    h, w = kspace.mask.shape
    slice_mm, row_mm, column_mm = (float(np.linalg.norm(kspace.affine[:3, axis])) for axis in kspace.plane.axes)
    (first, stop), (left, right) = kspace.crop
    root = ElementTree.Element("ismrmrdHeader", xmlns="http://www.ismrm.org/ISMRMRD")
    # The schema asks for it; at 1.5 T.
    conditions = ElementTree.SubElement(root, "experimentalConditions")
    ElementTree.SubElement(conditions, "H1resonanceFrequency_Hz").text = "63870000"
    encoding = ElementTree.SubElement(root, "encoding")
    for name, rows, columns in (("encodedSpace", h, w), ("reconSpace", stop - first, right - left)):
        space = ElementTree.SubElement(encoding, name)
        for part, values in (
            ("matrixSize", (rows, columns, 1)),
            ("fieldOfView_mm", (rows * row_mm, columns * column_mm, slice_mm)),
        ):
            box = ElementTree.SubElement(space, part)
            for axis, value in zip("xyz", values, strict=True):
                ElementTree.SubElement(box, axis).text = repr(value)
    limits = ElementTree.SubElement(encoding, "encodingLimits")
    for name, n in (("kspace_encoding_step_1", w), ("slice", len(kspace.data))):
        limit = ElementTree.SubElement(limits, name)
        for part, number in (("minimum", 0), ("maximum", n - 1), ("center", n // 2)):
            ElementTree.SubElement(limit, part).text = str(number)
    ElementTree.SubElement(encoding, "trajectory").text = "cartesian"
    return ElementTree.tostring(root, encoding="unicode")
