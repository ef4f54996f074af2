"""Write a volume as a derived DICOM series."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import uid
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.valuerep import format_number_as_ds

from engine.errors import InputError
from engine.io.files import replacing_folder
from engine.io.guard import guarded
from engine.io.source import Source
from engine.io.volumes.dicom_files import first_header
from engine.io.volumes.dicom_frames import MAX_COSINE, MAX_POSITION_MM, MAX_SPACING_MM
from engine.io.volumes.shear import MAX_TILT_DEG

#: Says in each file which program wrote it: only series of our own are replaced.
IMPLEMENTATION_UID = uid.UID("2.25.207418853270136042713384790125534061842")

_LEVELS = 2**16 - 1
_STORAGE = {"MR": uid.MRImageStorage, "CT": uid.CTImageStorage}
#: Attributes that every image has to have, though they may be empty (PS3.3, type 2), then those of each modality.
_EMPTY = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber "
    "ReferringPhysicianName SeriesNumber Manufacturer PositionReferenceIndicator PatientPosition AcquisitionNumber"
).split()
_EMPTY_OF = {"MR": "ScanOptions MRAcquisitionType RepetitionTime EchoTime EchoTrainLength".split(), "CT": ["KVP"]}
#: These are new unless they are to be kept.
_NEW_UIDS = ("StudyInstanceUID", "FrameOfReferenceUID")


def write_series(
    folder: str | Path,
    data: np.ndarray,
    affine: np.ndarray,
    source: str | Path | None = None,
    keep: Sequence[str] = (),
    description: str = "Reconstruction with two perpendicular 2D diffusion priors",
) -> None:
    """Write a volume as a series of single-frame images, one a slice, which appears whole or not at all.

    Nothing of a source is copied but its modality and the attributes named in `keep`. Values are stored as unsigned 16
    bit numbers that span their range, with an error of at most 1/131070 of it. Slices keep their order. A folder
    that exists is replaced where it is empty or holds a series that this function wrote, and nothing else; while it is,
    the earlier series lies beside it under a hidden name (.old...) for a moment.

    Parameters
    ----------
    folder : path
        Of the new series; its parent exists.
    data : float32 (columns, rows, slices)
    affine : float64 (4, 4)
        Indices of `data` to mm (right, anterior, superior): perpendicular axes, in any orientation.
    source : path, optional
        Folder of the series that this one was made from. Its first file by name says the modality, MR or CT; all else,
        and no source, makes secondary captures of modality OT.
    keep : sequence of str
        Keywords of attributes to copy from that file, such as PatientID or StudyInstanceUID.
    description : str
        What was done, in up to 1024 characters; the first 64 name the series.

    Raises
    ------
    InputError
        A volume that is not three-dimensional, finite and real; an affine that no rectangular grid has; a keyword that
        is unknown, or that the new series sets itself; a source that cannot be read; a folder that holds anything else,
        or cannot be written.

    References
    ----------
    DICOM PS3.3, A.3, A.4 and A.8 (CT, MR and Secondary Capture Image IODs); PS3.15, E.1 (de-identification).
    """
    folder = Path(folder).absolute()
    _check_volume(data)
    _check_description(description)
    orientation, spacing, step, origin = _geometry(affine)
    template = _template(source, keep)
    series = _series(template, description)
    low, high = float(data.min()), float(data.max())
    intercept = format_number_as_ds(low)
    slope = format_number_as_ds((high - low) / _LEVELS or 1.0)
    _add_image(series, data, orientation, spacing, step, (slope, intercept))
    _keep(series, template, keep)
    n_slices = data.shape[2]
    n_digits = max(4, len(str(n_slices)))
    normal = np.cross(orientation[:3], orientation[3:])
    try:
        with replacing_folder(folder, check_target) as part, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for k in range(n_slices):
                position = origin + k * step
                series.SOPInstanceUID = series.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid(None)
                series.InstanceNumber = k + 1
                series.ImagePositionPatient = _decimals(position)
                series.SliceLocation = _decimals([position @ normal])
                levels = np.rint((data[:, :, k].T.astype(np.float64) - float(intercept)) / float(slope))
                series.PixelData = np.clip(levels, 0, _LEVELS).astype("<u2").tobytes()
                series["PixelData"].VR = "OW"
                series.save_as(part / f"IM{k + 1:0{n_digits}d}.dcm", enforce_file_format=True)
    except OSError as error:
        expected = f"a place for {n_slices} files"
        raise InputError("folder", expected, f"'{error.strerror}' at '{folder}'", "choose another folder") from error


def check_series(affine: np.ndarray, source: str | Path | None = None, keep: Sequence[str] = ()) -> None:
    """Refuse what `write_series` would refuse of a volume's place, its source and what is to be kept of that.

    Raises
    ------
    InputError
        As `write_series`.
    """
    orientation, spacing, step, _ = _geometry(affine)
    template = _template(source, keep)
    series = _series(template, "nothing")
    _add_image(series, np.zeros((1, 1, 1), np.float32), orientation, spacing, step, ("0", "1"))
    _keep(series, template, keep)


def _check_volume(data: np.ndarray) -> None:
    if data.ndim != 3 or min(data.shape) < 1 or max(data.shape[:2]) > _LEVELS:
        expected = f"(columns, rows, slices) of at most {_LEVELS} columns and rows"
        raise InputError("data", expected, f"shape {data.shape}", "give a single 3D volume")
    if not np.issubdtype(data.dtype, np.floating) or not np.isfinite([data.min(), data.max()]).all():
        expected = "finite real numbers"
        raise InputError("data", expected, f"{data.dtype} from {data.min()} to {data.max()}", "mend it first")


def _check_description(description: str) -> None:
    if not 0 < len(description) <= 1024 or not description.isprintable() or "\\" in description:
        expected = "1 to 1024 printable characters without backslash"
        raise InputError("description", expected, f"{len(description)} such as {description[:20]!r}", "shorten it")


def _geometry(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return direction cosines (6,), spacing of rows and columns (2,), step (3,) and origin (3,), LPS in mm."""
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.linalg.norm(affine[:3, :3], axis=0).all():
        expected = "4 × 4 finite numbers with three axes"
        raise InputError("affine", expected, f"{affine.tolist()}", "give that of the volume")
    along_row, along_column, step, origin = (np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)[:3].T
    column_mm, row_mm, step_mm = (float(np.linalg.norm(axis)) for axis in (along_row, along_column, step))
    cosines = np.stack([along_row / column_mm, along_column / row_mm])
    tilt_deg = math.degrees(math.acos(min(1.0, abs(float(step @ np.cross(*cosines))) / step_mm)))
    if abs(cosines[0] @ cosines[1]) > MAX_COSINE or tilt_deg > MAX_TILT_DEG:
        got = f"slices tilted by {tilt_deg:.3g}° and rows with a cosine of {cosines[0] @ cosines[1]:.3g} to columns"
        raise InputError("affine", "perpendicular axes", got, "resample the volume to a rectangular grid")
    if max(column_mm, row_mm, step_mm) > MAX_SPACING_MM or abs(origin).max() > MAX_POSITION_MM:
        expected = f"voxels below {MAX_SPACING_MM:g} mm within {MAX_POSITION_MM:g} mm"
        got = f"{column_mm:g} × {row_mm:g} × {step_mm:g} mm at {origin.tolist()}"
        raise InputError("affine", expected, got, "give it in mm")
    return cosines.ravel(), np.array([row_mm, column_mm]), step, origin


def _template(source: str | Path | None, keep: Sequence[str]) -> Dataset:
    """Return what may be known of the source: its modality, and the attributes to keep."""
    for keyword in keep:
        tag = tag_for_keyword(keyword)
        # Pixels are described by the new series alone, and a sequence may hold anything.
        if tag is None or Tag(tag).group in (0x0000, 0x0002, 0x0028, 0x7FE0) or dictionary_VR(tag) == "SQ":
            expected = "keywords of single attributes of patient, study or series"
            raise InputError("keep", expected, f"{keyword!r}", "write them as in DICOM PS3.6, such as PatientID")
    if source is None:
        if keep:
            expected = f"a source to keep {', '.join(keep)} from"
            raise InputError("keep", expected, "none", "name the folder of a DICOM series")
        return Dataset()
    return first_header(Source(Path(source), "source"), ["Modality", *keep])


def _series(template: Dataset, description: str) -> FileDataset:
    """Return what all images of the series share, but for geometry and pixels; identifies nobody."""
    modality = str(template.get("Modality"))
    modality = modality if modality in _STORAGE else "OT"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = _STORAGE.get(modality, uid.SecondaryCaptureImageStorage)
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    series = FileDataset(None, Dataset(), preamble=b"\0" * 128, file_meta=meta)  # type: ignore[arg-type]
    for keyword in [*_EMPTY, *_EMPTY_OF.get(modality, [])]:
        setattr(series, keyword, None)
    series.SpecificCharacterSet = "ISO_IR 192"
    series.SOPClassUID = meta.MediaStorageSOPClassUID
    series.Modality = modality
    series.ImageType = ["DERIVED", "SECONDARY", *{"MR": ["OTHER"], "CT": ["AXIAL"]}.get(modality, [])]
    series.SeriesInstanceUID = uid.generate_uid(None)
    for keyword in _NEW_UIDS:
        setattr(series, keyword, uid.generate_uid(None))
    series.SeriesDescription = description[:64].strip()
    series.DerivationDescription = description
    if modality == "MR":
        series.ScanningSequence = "RM"  # research mode: no pulse sequence made these pixels
        series.SequenceVariant = "NONE"
    elif modality == "OT":
        series.ConversionType = "WSD"  # from a workstation
    series.PatientIdentityRemoved = "YES"
    series.DeidentificationMethod = "Only modality, geometry and pixels are kept"
    series.LongitudinalTemporalInformationModified = "REMOVED"
    return series


def _add_image(
    series: FileDataset,
    data: np.ndarray,
    orientation: np.ndarray,
    spacing: np.ndarray,
    step: np.ndarray,
    scaling: tuple[str, str],
) -> None:
    """Set what describes the pixels of every slice."""
    series.Columns, series.Rows = data.shape[:2]
    series.SamplesPerPixel = 1
    series.PhotometricInterpretation = "MONOCHROME2"
    series.BitsAllocated = series.BitsStored = 16
    series.HighBit = 15
    series.PixelRepresentation = 0
    series.RescaleSlope, series.RescaleIntercept = scaling
    series.RescaleType = "HU" if series.Modality == "CT" else "US"
    series.ImageOrientationPatient = _decimals(orientation)
    series.PixelSpacing = _decimals(spacing)
    apart_mm = abs(float(step @ np.cross(orientation[:3], orientation[3:])))
    series.SliceThickness = series.SpacingBetweenSlices = _decimals([apart_mm])
    # A few bright voxels must not dim the rest; every eighth voxel knows as much.
    low, high = np.percentile(data[::2, ::2, ::2], [0.5, 99.5])
    width = max(float(high) - float(low), float(scaling[0]))
    series.WindowCenter, series.WindowWidth = _decimals([(float(low) + float(high)) / 2]), _decimals([width])
    if width < 1:  # which the function LINEAR, meant for integers, forbids
        series.VOILUTFunction = "LINEAR_EXACT"


def _keep(series: FileDataset, template: Dataset, keep: Sequence[str]) -> None:
    """Copy attributes of the source, and say that it is identified where any was there."""
    mine = {element.keyword for element in series if not element.is_empty} - set(_NEW_UIDS)
    mine |= {"SOPInstanceUID", "InstanceNumber", "ImagePositionPatient", "SliceLocation"}
    n_kept = 0
    for keyword in keep:
        if keyword in mine:
            expected = "attributes that describe patient or study"
            raise InputError("keep", expected, f"{keyword}, which the new series sets itself", "leave it out")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if keyword not in template or template[keyword].is_empty:
                    continue
                element = template[keyword]
                value = element.value
                if element.VR == "PN":  # as text, so that it is encoded again in this series' character set
                    value = [str(name) for name in value] if element.VM > 1 else str(value)
                series[keyword] = DataElement(element.tag, element.VR, value, validation_mode=RAISE)
        except Exception as error:  # as the parser finds the value damaged
            expected = f"a valid {keyword} in the source"
            raise InputError("keep", expected, f"{type(error).__name__}", "leave it out") from error
        n_kept += 1
    if n_kept:
        series.PatientIdentityRemoved = "NO"
        del series.DeidentificationMethod, series.LongitudinalTemporalInformationModified


def _decimals(numbers: Sequence[float] | np.ndarray) -> str | list[str]:
    texts = [format_number_as_ds(float(number)) for number in numbers]
    return texts if len(texts) > 1 else texts[0]


def check_target(folder: Path) -> None:
    """Refuse a folder that `write_series` would not replace.

    Raises
    ------
    InputError
        It has no parent, or is or holds anything but an earlier series of this program.
    """
    if not folder.parent.is_dir():
        raise InputError("folder", "an existing parent", f"'{folder}'", f"make '{folder.parent}' first")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError("folder", "a new folder or an earlier result", f"another file at '{folder}'", "move it")
    if folder.exists() and (name := _foreign(Source(folder, "folder"))):
        expected = "a new folder or an earlier result"
        raise InputError("folder", expected, f"'{name}' in '{folder}'", "choose another folder")


@guarded("an earlier result", "pydicom")
def _foreign(source: Source) -> str | None:
    """Name of the first file of a folder that `write_series` did not write."""
    from pydicom.filereader import read_file_meta_info

    for path in sorted(source.path.iterdir()):
        try:
            is_ours = path.suffix == ".dcm" and not path.is_symlink() and path.is_file()
            if not is_ours or read_file_meta_info(path).get("ImplementationClassUID") != IMPLEMENTATION_UID:
                return path.name
        except Exception:  # no DICOM, hence not ours
            return path.name
    return None
