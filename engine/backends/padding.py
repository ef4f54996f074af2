"""Slices of any size, for networks that halve their sides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np

from engine.device import Device
from engine.sampling.denoiser import CotangentOf, Denoiser, Guided
from kernels.arrays import library_of

if TYPE_CHECKING:
    from engine.operators.data_fidelity import DataFidelity


#: Mirrored rows before and after a slice, and columns.
Margins = tuple[tuple[int, int], tuple[int, int]]
NO_MARGINS: Margins = ((0, 0), (0, 0))


def padded_shape(shape: tuple[int, int], divisor: int, least: Margins = NO_MARGINS) -> tuple[int, int]:
    """The smallest slice with those margins whose sides are multiples of the divisor."""
    sides = (side + sum(margin) for side, margin in zip(shape, least, strict=True))
    rows, columns = (-(-side // divisor) * divisor for side in sides)
    return rows, columns


@final
class PaddedDenoiser(Denoiser):
    """x̂₀ = crop(D(pad(x))), and the exact transpose of that.

    Rows and columns beyond the border mirror those within it, noise included, so that the network finds there what it
    was told: an image of that noise level. Slices that fit are handed on as they are.

    Parameters
    ----------
    denoiser : Denoiser
    divisor : int
        Sides of what the denoiser takes are multiples of this.
    least : Margins
        Rows and columns to mirror in any case, for a network that does not know what ends at a border.
    """

    def __init__(self, denoiser: Denoiser, divisor: int, least: Margins = NO_MARGINS):
        self.inner, self.divisor, self.least = denoiser, divisor, least

    @property
    def device(self) -> Device:  # type: ignore[override]
        return self.inner.device

    @property
    def sigma_range(self) -> tuple[float, float]:  # type: ignore[override]
        return self.inner.sigma_range

    @property
    def batch_size(self) -> int:  # type: ignore[override]
        return self.inner.batch_size

    def close(self) -> None:
        self.inner.close()

    def _margins(self, x: Any) -> Margins:
        """What to mirror; raise ValueError where a slice is too small to mirror that many."""
        whole = padded_shape(x.shape[1:], self.divisor, self.least)
        rows, columns = (
            (before + (side - n - before - after) // 2, after + (side - n - before - after + 1) // 2)
            for side, n, (before, after) in zip(whole, x.shape[1:], self.least, strict=True)
        )
        if max(rows) >= x.shape[1] or max(columns) >= x.shape[2]:
            raise ValueError(
                f"x: expected slices that hold what padding to multiples of {self.divisor} mirrors, got "
                f"{x.shape[1]}×{x.shape[2]}; give larger ones"
            )
        return rows, columns

    def _denoise(self, x: np.ndarray, sigma: float) -> np.ndarray:
        margins = self._margins(x)
        if not np.any(margins):
            return self.inner._denoise(x, sigma)
        return _crop(self.inner._denoise(_pad(x, margins), sigma), margins)

    def _vjp(self, x: np.ndarray, sigma: float, cotangent: CotangentOf) -> tuple[np.ndarray, np.ndarray]:
        margins = self._margins(x)
        if not np.any(margins):
            return self.inner._vjp(x, sigma, cotangent)

        def of_padded(x0: Any, which: slice) -> Any:
            inside = cotangent(_crop(x0, margins), which)
            return library_of(inside=inside).pad(inside, ((0, 0), *margins))

        x0, pulled = self.inner._vjp(_pad(x, margins), sigma, of_padded)
        return _crop(x0, margins), _fold(pulled, margins)

    def _guided(self, x: Any, sigma: float, fidelity: DataFidelity, noise: Any) -> Guided | None:
        # A graph that holds the operator holds it for slices of its own size.
        return None if np.any(self._margins(x)) else self.inner._guided(x, sigma, fidelity, noise)


def _pad(x: Any, margins: Margins) -> Any:
    library = library_of(x=x)
    return library.ascontiguousarray(library.pad(x, ((0, 0), *margins), mode="reflect"))


def _crop(x: Any, margins: Margins) -> Any:
    (top, bottom), (left, right) = margins
    n_rows, n_columns = x.shape[1:]
    return library_of(x=x).ascontiguousarray(x[:, top : n_rows - bottom, left : n_columns - right])


def _fold(x: Any, margins: Margins) -> Any:
    """The transpose of `_pad`: what lies beyond the border is added to what it mirrors."""
    library = library_of(x=x)
    for axis, (before, after) in enumerate(margins, start=1):
        x = library.moveaxis(x, axis, 0)
        n = len(x) - before - after
        inside = x[before : before + n].copy()
        inside[1 : before + 1] += x[:before][::-1]
        inside[n - 1 - after : n - 1] += x[before + n :][::-1]
        x = library.moveaxis(inside, 0, axis)
    return library.ascontiguousarray(x)
