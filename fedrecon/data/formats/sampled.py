"""Which samples were measured, where a file does not tell."""

import numpy as np

# A line with more zeros than this fraction is looked at closely.
_FEW = 0.05
# Values that are rounded to steps are zero where neighbors are a few steps; holes lie next to anything.
_STEPS = 8
_STRONG = 0.2


def sampled(kspace: np.ndarray) -> np.ndarray:
    """The samples measured, from k-space that is zero elsewhere.

    Rows and columns are lines: a sample is measured where its row and its column have any value, so that a
    measured zero counts as measured. Zeros inside of such lines are holes of a pattern in two dimensions
    where they are many and lie next to values far above the smallest ones; else they are measured values,
    as in k-space that was rounded to integers. Slices without any value are measured as the others.

    Args:
      kspace: complex ``(slices, coils, ny, nx)``, or ``(slices, coils, nz, ny, nx)`` with the readout along
        ny, whose lines are its readouts.

    Returns:
      bool, the shape of ``kspace`` without coils.
    """
    values = np.any(kspace, 1)
    if kspace.ndim == 5:
        mask = np.broadcast_to(np.any(values, 2, keepdims=True), values.shape)
    else:
        mask = np.any(values, 2, keepdims=True) & np.any(values, 1, keepdims=True)
        zeros = mask & ~values
        if zeros.sum() > _FEW * mask.sum() and _are_holes(kspace, zeros):
            mask = values
    mask = mask.copy()
    empty = ~np.any(values, tuple(range(1, values.ndim)))
    mask[empty] = np.any(mask[~empty], 0)
    return mask


def _are_holes(kspace: np.ndarray, zeros: np.ndarray) -> bool:
    parts = np.maximum(np.abs(kspace.real), np.abs(kspace.imag))
    step = parts[parts > 0].min()
    size = parts.max(1)
    neighbors = np.zeros_like(size)
    neighbors[:, 1:] = size[:, :-1]
    neighbors[:, :-1] = np.maximum(neighbors[:, :-1], size[:, 1:])
    return bool((neighbors[zeros] > _STEPS * step).mean() > _STRONG)
