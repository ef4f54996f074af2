"""The options that say what of a file with k-space is to be read, and how."""

from __future__ import annotations

from dataclasses import dataclass

from engine.options import Options


@dataclass(frozen=True)
class KSpaceReading(Options):
    """Which image of a file of k-space is read, for what the file does not say.

    Parameters
    ----------
    dataset : str or None
        Group of an ISMRMRD file, or array in a .npz, .mat or HDF5 file; declared beside those of sinograms.
    axes : tuple of str
        What the axes of an array count, of rows, columns, coils, and slices or partitions; likewise.
    """

    dataset: str | None = None
    axes: tuple[str, ...] = ()
