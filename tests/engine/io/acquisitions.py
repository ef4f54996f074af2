"""Scans as acquisitions of ISMRMRD, written with its own package."""

from __future__ import annotations

import numpy as np
import pytest

ismrmrd = pytest.importorskip("ismrmrd", reason="the package of the format is in the extra `mri`")

#: Slices, coils, readout, phase encoding.
SHAPE = (3, 2, 8, 7)


def coil_images(shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random(shape) + 0.5) * np.exp(1j * rng.random(shape))


def centred(images, axes=(-2, -1)):
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(images, axes=axes), norm="ortho", axes=axes), axes=axes)


def header(
    encoded,
    recon=None,
    encoded_mm=None,
    recon_mm=None,
    centres=(None, None),
    trajectory="cartesian",
    mode="",
    bandwidth=None,
):
    xsd = ismrmrd.xsd
    recon = recon or encoded
    encoded_mm = encoded_mm or [float(n) for n in encoded]
    # Pixels of the same size.
    recon_mm = recon_mm or [float(mm) * m / n for mm, m, n in zip(encoded_mm, recon, encoded, strict=True)]

    def space(matrix, fov):
        box = [dict(zip("xyz", values, strict=True)) for values in (matrix, map(float, fov))]
        return xsd.encodingSpaceType(
            matrixSize=xsd.matrixSizeType(**box[0]), fieldOfView_mm=xsd.fieldOfViewMm(**box[1])
        )

    def limit(centre, n):
        return None if centre is None else xsd.limitType(minimum=0, maximum=n - 1, center=centre)

    limits = xsd.encodingLimitsType(
        kspace_encoding_step_1=limit(centres[0], encoded[1]), kspace_encoding_step_2=limit(centres[1], encoded[2])
    )
    encoding = xsd.encodingType(
        encodedSpace=space(encoded, encoded_mm),
        reconSpace=space(recon, recon_mm),
        encodingLimits=limits,
        trajectory=xsd.trajectoryType(trajectory),
    )
    if mode:
        factor = xsd.accelerationFactorType(kspace_encoding_step_1=2, kspace_encoding_step_2=1)
        encoding.parallelImaging = xsd.parallelImagingType(
            accelerationFactor=factor, calibrationMode=xsd.calibrationModeType(mode)
        )
    conditions = xsd.experimentalConditionsType(H1resonanceFrequency_Hz=63870000)
    system = xsd.acquisitionSystemInformationType(relativeReceiverNoiseBandwidth=bandwidth)
    return xsd.ToXML(
        xsd.ismrmrdHeader(experimentalConditions=conditions, encoding=[encoding], acquisitionSystemInformation=system)
    )


def readout(samples, line, *, partition=0, flags=(), directions=None, position=(0, 0, 0), counters=None, **head):
    """An acquisition of samples (n_coils, n)."""
    acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(samples, np.complex64))
    acquisition.center_sample = samples.shape[1] // 2
    acquisition.idx.kspace_encode_step_1 = line
    acquisition.idx.kspace_encode_step_2 = partition
    for name, value in (counters or {}).items():
        setattr(acquisition.idx, name, value)
    for name, value in head.items():
        setattr(acquisition, name, value)
    for flag in flags:
        acquisition.setFlag(flag)
    if directions is not None:
        for name, direction in zip(("slice_dir", "read_dir", "phase_dir"), directions, strict=True):
            getattr(acquisition, name)[:] = direction
    acquisition.position[:] = position
    return acquisition


def write(path, xml, acquisitions):
    path.unlink(missing_ok=True)
    with ismrmrd.File(str(path), mode="w") as file:
        group = file["dataset"]
        group.header = ismrmrd.xsd.CreateFromDocument(xml)
        group.acquisitions = acquisitions
    return path


def lines_of(samples, lines=None, **how):
    """Every readout of k-space (n_slices, n_coils, readout, phase encoding), the slices interleaved."""
    n = samples.shape[3]
    return [
        readout(samples[s, :, :, line], line, counters={"slice": s}, **how)
        for line in (range(n) if lines is None else lines)
        for s in (*range(0, len(samples), 2), *range(1, len(samples), 2))
    ]


def images_of(loaded):
    return np.fft.ifft2(np.fft.ifftshift(loaded.data, axes=(-2, -1)))
