"""What graphs that hold the measurement operator take as inputs: the operator as small matrices.

A x̂₀ in such a graph is a few matrix products, so that one run gives x̂₀ and the whole guided gradient. All take x
(n, 1, h, w), sigma (n,), scale (1,) and measurement, and give x0 and pullback like x, squared and plain (n,):

- guided_fourier: mask (h, w), dft_rows (2, h, h), dft_columns (2, w, w); the measurement as (n, 2, h, w), real and
  imaginary part
- guided_thick_rows and guided_thick_columns: mean (n_blocks, h) or (n_blocks, w), any matrix of
  `engine.operators.ThickSlices`; measurement, and noise e, with one channel
"""

from __future__ import annotations

import numpy as np


def dft_matrix(n: int) -> np.ndarray:
    """Return the centred discrete Fourier transform of n samples as a matrix, real and imaginary part.

    F[k, j] = exp(−2πi (k − n // 2) j / n): row k of the matrix gives the frequency k − n // 2, as
    `numpy.fft.fftshift(numpy.fft.fft(x))` does. So the masked transform of `engine.operators.MaskedFourier` is
    mask · (F_rows X F_columnsᵀ), and its adjoint of a y that is zero where the mask is, Re(F_rowsᴴ Y conj(F_columns)).

    Parameters
    ----------
    n : int

    Returns
    -------
    float32 (2, n, n)
        Rounded from float64; the angle is reduced in integers first, so that it is exact for every n.
    """
    turns = np.outer(np.arange(n) - n // 2, np.arange(n)) % n
    angles = 2 * np.pi / n * turns
    return np.stack([np.cos(angles), -np.sin(angles)]).astype(np.float32)
