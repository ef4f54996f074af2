"""Small DICOM series for tests to write, and to read."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from engine.io.volumes.dicom import read_series as series_of

SHAPE = (6, 5, 4)  # columns, rows, slices
ORIENTATIONS = {
    "axial": ([1, 0, 0], [0, 1, 0]),
    "coronal": ([1, 0, 0], [0, 0, -1]),
    "sagittal": ([0, 1, 0], [0, 0, -1]),
    "flipped": ([-1, 0, 0], [0, 1, 0]),
    "head down": ([1, 0, 0], [0, -1, 0]),
    "oblique": ([0.9396926208, 0.3420201433, 0], [-0.3213938048, 0.8830222216, -0.3420201433]),
}


def read_series(*args, **kwargs):
    """Voxels and affine alone."""
    series = series_of(*args, **kwargs)
    return series.data, series.affine


def levels(shape=SHAPE):
    """Different everywhere, so that a wrong order shows."""
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


def image(pixels, position, cosines=ORIENTATIONS["axial"], spacing=(1.5, 0.75), series="1.2.3.4", **attributes):
    """An MR image of pixels (columns, rows) in patient coordinates (LPS)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", Dataset(), preamble=b"\0" * 128, file_meta=meta)
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.Modality = "MR"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.3", series, "1.2.5"
    dataset.SeriesNumber, dataset.SeriesDescription = 7, "t2 tse"
    dataset.ImagePositionPatient = [f"{x:.10g}" for x in position]
    dataset.ImageOrientationPatient = [f"{x:.10g}" for x in np.ravel(cosines)]
    dataset.PixelSpacing = list(spacing)
    dataset.SliceThickness = 99  # wrong on purpose: distance comes from positions
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Columns, dataset.Rows = pixels.shape[:2]
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.PixelData = pixels.astype("<i2").T.tobytes()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def geometry(cosines=ORIENTATIONS["axial"], spacing=(1.5, 0.75), step_mm=2.0, origin=(10.0, -20.0, 30.0)):
    """The first position (LPS), the step between slices (LPS), and the affine (RAS) that has to come out."""
    row, column = (np.array(axis, dtype=np.float64) for axis in cosines)
    step = np.cross(row, column) * step_mm
    lps = np.eye(4)
    lps[:3] = np.stack([row * spacing[1], column * spacing[0], step, np.array(origin)], axis=1)
    return np.array(origin), step, np.diag([-1, -1, 1, 1]) @ lps


def make(folder, change=lambda k, dataset: None, shape=SHAPE, cosines=ORIENTATIONS["axial"], step_mm=2.0, **attributes):
    """Write a series whose file names and numbers tell nothing of its order; `change` alters each data set."""
    folder.mkdir(exist_ok=True)
    origin, step, affine = geometry(cosines, step_mm=step_mm)
    pixels = levels(shape)
    for k in range(shape[2]):
        dataset = image(pixels[:, :, k], origin + k * step, cosines, InstanceNumber=(7 * k) % 5, **attributes)
        change(k, dataset)
        dataset.save_as(folder / f"{(5 * k + 3) % 7}-{k}.dcm", enforce_file_format=True)
    return pixels.astype(np.float32), affine


def enhanced(pixels, origin, step, cosines=ORIENTATIONS["axial"], spacing=(1.5, 0.75)):
    """One file with frames in reverse order, orientation and spacing shared, positions and slopes of each frame."""
    dataset = image(pixels[:, :, 0], origin, cosines, spacing)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(dataset, keyword)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    n = pixels.shape[2]
    dataset.NumberOfFrames = n
    dataset.PixelData = pixels[:, :, ::-1].astype("<i2").T.tobytes()

    def group(**sequences):
        outer = Dataset()
        for name, attributes in sequences.items():
            inner = Dataset()
            for keyword, value in attributes.items():
                setattr(inner, keyword, value)
            setattr(outer, name, Sequence([inner]))
        return outer

    dataset.SharedFunctionalGroupsSequence = Sequence(
        [
            group(
                PlaneOrientationSequence={"ImageOrientationPatient": [float(x) for x in np.ravel(cosines)]},
                PixelMeasuresSequence={"PixelSpacing": list(spacing)},
            )
        ]
    )
    dataset.PerFrameFunctionalGroupsSequence = Sequence(
        [
            group(
                PlanePositionSequence={"ImagePositionPatient": [float(x) for x in origin + k * step]},
                PixelValueTransformationSequence={"RescaleSlope": 1 + k, "RescaleIntercept": 3},
            )
            for k in reversed(range(n))
        ]
    )
    return dataset


def set_on(k_changed, **attributes):
    """A change of one slice: attributes are set, or deleted where None."""

    def change(k, dataset):
        for keyword, value in attributes.items() if k == k_changed else ():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)

    return change
