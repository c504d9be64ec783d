"""Wrong versions of single lines, and the tests that must fail on them.

`python -m tests.mutants` applies them one by one to a copy of the project and runs their tests.
"""

from tests.mutants import (
    ct,
    data,
    federated,
    formats,
    learning,
    methods,
    mri,
    operators,
    privacy_sums,
    programs,
    runs,
    solvers,
)
from tests.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *operators.MUTANTS,
    *solvers.MUTANTS,
    *mri.MUTANTS,
    *ct.MUTANTS,
    *data.MUTANTS,
    *formats.MUTANTS,
    *learning.MUTANTS,
    *federated.MUTANTS,
    *methods.MUTANTS,
    *runs.MUTANTS,
    *privacy_sums.MUTANTS,
    *programs.MUTANTS,
)
