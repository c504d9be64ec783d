"""``python -m operators.fourier.kernel_table [FILE]``: fits the interpolation kernels, writes the table."""

import sys

import numpy as np

from operators.fourier.kernel_fit import fit_kernel
from operators.fourier.nufft_kernel import OVERSAMPLING, TABLE, WIDTHS


def write_table(path: str) -> None:
    """Fits the kernels of all widths and oversamplings (a few seconds) and writes them as npz."""
    kernels = [fit_kernel(width, oversampling) for oversampling in OVERSAMPLING for width in WIDTHS]
    np.savez_compressed(
        path,
        width=np.array([k.width for k in kernels]),
        oversampling=np.array([k.oversampling for k in kernels]),
        powers=np.array([len(k.coefficients) for k in kernels]),
        error=np.array([k.error for k in kernels]),
        gain=np.array([k.gain for k in kernels]),
        coefficients=np.concatenate([k.coefficients.ravel() for k in kernels]),
    )
    print(f"{len(kernels)} kernels in {path}")


if __name__ == "__main__":
    write_table(sys.argv[1] if len(sys.argv) > 1 else str(TABLE))
