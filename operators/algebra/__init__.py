"""Linear operators, their algebra, checks of arguments and dtypes; no physics."""

from operators.algebra.arguments import (
    ArgumentError,
    finite_number,
    image_shape_2d,
    positive_integer,
    positive_number,
    renamed,
)
from operators.algebra.block_diagonal import BlockDiagonal
from operators.algebra.checks import check_adjoint, check_gradients
from operators.algebra.diagonal import Diagonal, Identity
from operators.algebra.differences import (
    FiniteDifferences,
    backward_difference,
    backward_difference_adjoint,
    difference,
    difference_adjoint,
)
from operators.algebra.dtypes import (
    as_inexact,
    complex_dtype,
    default_dtype,
    is_complex,
    real_dtype,
    safe_sqrt,
    squared,
)
from operators.algebra.linear_operator import (
    Adjoint,
    LinearOperator,
    Product,
    Scaled,
    Sum,
    check_array,
)
from operators.algebra.measured import check_measured
from operators.algebra.mesh import vary_together
from operators.algebra.pytree import Leaf, OptionalLeaf, assign, frozen_pytree, leaf, static
from operators.algebra.wavelets import Wavelet, daubechies_filter

__all__ = [
    "Adjoint",
    "ArgumentError",
    "BlockDiagonal",
    "Diagonal",
    "FiniteDifferences",
    "Identity",
    "Leaf",
    "LinearOperator",
    "OptionalLeaf",
    "Product",
    "Scaled",
    "Sum",
    "Wavelet",
    "as_inexact",
    "assign",
    "backward_difference",
    "backward_difference_adjoint",
    "check_adjoint",
    "check_array",
    "check_gradients",
    "check_measured",
    "complex_dtype",
    "daubechies_filter",
    "default_dtype",
    "difference",
    "difference_adjoint",
    "finite_number",
    "frozen_pytree",
    "image_shape_2d",
    "is_complex",
    "leaf",
    "positive_integer",
    "positive_number",
    "real_dtype",
    "renamed",
    "safe_sqrt",
    "squared",
    "static",
    "vary_together",
]
