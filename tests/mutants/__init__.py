"""Wrong versions of single lines, and the tests that must fail on them.

`python -m tests.mutants` applies them one by one to a copy of the project and runs their tests.
"""

from tests.mutants import (
    attacks,
    classical,
    communication,
    ct,
    data,
    encryption,
    federated,
    formats,
    joint,
    learning,
    methods,
    mri,
    networks,
    operators,
    privacy,
    privacy_sums,
    programs,
    quality,
    runs,
    runtime,
    secure,
    solvers,
    tradeoffs,
    training,
)
from tests.mutants.mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *operators.MUTANTS,
    *solvers.MUTANTS,
    *mri.MUTANTS,
    *ct.MUTANTS,
    *data.MUTANTS,
    *encryption.MUTANTS,
    *formats.MUTANTS,
    *joint.MUTANTS,
    *learning.MUTANTS,
    *networks.MUTANTS,
    *classical.MUTANTS,
    *federated.MUTANTS,
    *communication.MUTANTS,
    *methods.MUTANTS,
    *privacy.MUTANTS,
    *privacy_sums.MUTANTS,
    *runtime.MUTANTS,
    *runs.MUTANTS,
    *tradeoffs.MUTANTS,
    *training.MUTANTS,
    *programs.MUTANTS,
    *secure.MUTANTS,
    *quality.MUTANTS,
    *attacks.MUTANTS,
)
