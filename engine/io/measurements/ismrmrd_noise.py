"""The noise of receivers, from the noise scan of an ISMRMRD file."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

#: Samples over channels from which on a covariance is known well enough: to a third of its size at the least.
_ENOUGH = 10
#: Smallest over largest eigenvalue of a covariance below which channels depend on each other, or are dead.
_SINGULAR = 1e-8


@dataclass(frozen=True, eq=False)
class ReceiverNoise:
    """White noise that samples have once their channels were mixed.

    Parameters
    ----------
    level : float
        Standard deviation of the real and the imaginary part of a sample that was taken once.
    whitening : complex64 (n_channels, n_channels)
        That makes the noise of channels equally strong and independent, and leaves them alone where it is.
    origin : str
        For the run's record.
    """

    level: float
    whitening: np.ndarray
    origin: str

    def whiten(self, samples: np.ndarray) -> None:
        """Mix the channels of samples (n, n_channels, rows, columns), in place."""
        for part in samples:
            part[:] = np.tensordot(self.whitening, part, 1)


def noise_of(
    records: np.ndarray, dwell_us: np.ndarray, n_channels: int, bandwidth: float | None, ismrmrd: ModuleType
) -> ReceiverNoise | str:
    """Find the noise of an image's samples from acquisitions without excitation; or the reason why they do not tell it.

    Noise has as much variance as a sample has bandwidth: over the time between samples, where both scans state it. A
    noise scan sees its own band through the receiver's filter, whose relative noise bandwidth, where the header has
    one, is what that leaves; an image is seen in the middle of its oversampled readout, where the filter takes nothing.

    Parameters
    ----------
    records : acquisitions (n,), at least one
    dwell_us : float (m,)
        Times between the samples of the image's readouts; 0 where not stated.
    n_channels : int
    bandwidth : float or None
    ismrmrd : module

    Returns
    -------
    ReceiverNoise or str

    Source
    ------
    Kellman and McVeigh, "Image reconstruction in SNR units", MRM 54:1439 (2005); the covariance as in Pruessmann et
    al., "Advances in sensitivity encoding with arbitrary k-space trajectories", MRM 46:638 (2001).
    """
    heads = records["head"]
    if (heads["active_channels"] != n_channels).any():
        return "the noise scan has other channels than the image, and is left out"
    covariance, n_samples = np.zeros((n_channels, n_channels), np.complex128), 0
    image_us = float(np.median(dwell_us))
    for record, dwell in zip(records, heads["sample_time_us"].astype(np.float64), strict=True):
        samples = ismrmrd.file.Acquisitions.from_numpy(record).data.astype(np.complex128)
        ratio = dwell / image_us if _is_time(dwell) and _is_time(image_us) else 1.0
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found below
            covariance += ratio * samples @ samples.conj().T
        n_samples += samples.shape[1]
    if n_samples < _ENOUGH * n_channels:
        return f"the noise scan, of {n_samples} samples for {n_channels} channels, is too short and left out"
    if not np.isfinite(covariance).all():
        return "the noise scan holds NaN or infinite samples, and is left out"
    # Some converters write a bandwidth in other units there.
    passed = bandwidth if bandwidth is not None and 0 < bandwidth <= 1 else 1.0
    values, vectors = np.linalg.eigh(covariance / (n_samples * passed))
    if not values[0] > _SINGULAR * values[-1]:
        return "the noise scan has channels without noise of their own, and is left out"
    size = np.sqrt(values.mean())
    whitening = (vectors * (size / np.sqrt(values))) @ vectors.conj().T
    origin = f"noise scan of {n_samples} samples, {n_channels} channel{'s' if n_channels > 1 else ''}"
    return ReceiverNoise(float(size / np.sqrt(2)), whitening.astype(np.complex64), origin)


def _is_time(dwell_us: float) -> bool:
    return bool(np.isfinite(dwell_us) and dwell_us > 0)
