"""Which samples of k-space were taken."""

from __future__ import annotations

import numpy as np

from engine.io.measurements.kspace_axes import Samples
from engine.io.source import Source
from engine.io.volumes.numpy_files import read_npy

#: Part of the samples of those rows and columns that were sampled at all from which on the others count as zeros that
#: were measured, not as holes.
_GRID = 0.99
#: Part of a scan's samples that each slice with any has, where all slices were sampled alike.
_ALIKE = 0.9


def mask_file(source: Source, shape: tuple[int, ...]) -> np.ndarray:
    """Read a mask of (columns,) or (rows, columns).

    Raises
    ------
    InputError
        Nothing there, unreadable, or of another shape or type.
    """
    mask = read_npy(source, "buif")
    if mask.shape not in (shape[1:], shape):
        expected = f"numbers {shape[1:]} or {shape}, one a sample"
        raise source.refusal(expected, f"{mask.dtype} {mask.shape}", "make one of that shape")
    return np.asarray(mask)


def sampled(samples: Samples, chosen: np.ndarray | None, source: Source) -> np.ndarray:
    """Return which samples to use, bool (rows, columns).

    Parameters
    ----------
    samples : Samples
    chosen : array (columns,) or (rows, columns), or None
        The user's mask.
    source : Source

    Raises
    ------
    InputError
        A mask of other numbers than 0 and 1, or one that leaves nothing; slices sampled differently.
    """
    shape = samples.data.shape[-2:]
    if chosen is not None:
        asker = Source(source.path, "mask")
        mask = _as_bool(chosen, shape, asker)
    elif samples.mask is not None:
        asker = source
        mask = _as_bool(samples.mask, shape, source)
    else:
        asker, mask = source, np.ones(shape, bool)
    if samples.is_exact and samples.mask is not None:
        mask = mask & _as_bool(samples.mask, shape, source)
    elif chosen is None and samples.mask is None:
        mask = _found(samples.data, source)
    else:
        # Padding: what a scanner measures is never zero in a whole line.
        held = np.zeros(shape, bool)
        for part in samples.data:
            held |= _nonzero(part)
        mask = mask & _grid(held)
    if not mask.any() or not any(part[..., mask].any() for part in samples.data):
        raise asker.refusal("a mask with samples that are not zero", "none left", "check the mask against the file")
    return mask


def _as_bool(mask: np.ndarray, shape: tuple[int, ...], asker: Source) -> np.ndarray:
    if not ((mask == 0) | (mask == 1)).all():
        raise asker.refusal("a mask of 0 and 1", "other values", "set 1 where sampled")
    return np.broadcast_to(mask != 0, shape)


def _found(data: np.ndarray, source: Source) -> np.ndarray:
    """Which samples are not zero in some slice or coil, after all slices were found to be sampled alike."""
    remedy = "split the scan by its masks, or state the samples that all share with --mask"
    found = alike(data, source, "slice", remedy)
    grid = _grid(found)
    # A value can be zero by chance or by rounding to integers; a line of lines cannot.
    return grid if found.sum() >= _GRID * grid.sum() else found


def alike(data: np.ndarray, source: Source, what: str, remedy: str) -> np.ndarray:
    """Return which samples are not zero in some slice or coil, bool (rows, columns).

    Parameters
    ----------
    data : complex (n, ..., rows, columns)
    source : Source
    what : str
        What the first axis counts.
    remedy : str

    Raises
    ------
    InputError
        One of them has some samples, and far fewer than all.
    """
    of_slices = [_nonzero(part) for part in data]
    found = np.asarray(np.stack(of_slices).any(axis=0))
    counts = np.array([part.sum() for part in of_slices])
    unlike = np.flatnonzero((counts > 0) & (counts < _ALIKE * found.sum()))
    if len(unlike):
        got = f"{counts[unlike[0]]} of {int(found.sum())} in {what} {unlike[0]}"
        raise source.refusal(f"the same samples in every {what}", got, remedy)
    return found


def _nonzero(part: np.ndarray) -> np.ndarray:
    """Whether any coil has something, bool (rows, columns)."""
    return np.asarray((part != 0).reshape(-1, *part.shape[-2:]).any(axis=0))


def _grid(held: np.ndarray) -> np.ndarray:
    """The samples of those rows and columns that have any."""
    return np.logical_and.outer(held.any(axis=1), held.any(axis=0))
