"""Privacy of federated training: what a run costs each site's patients, and the noise a budget demands.

Methods by name are in ``methods``, a tamper-evident record of rounds in `chain`.
"""

from fedrecon.privacy import chain as chain
from fedrecon.privacy.accounting import Calibration, calibrate_noise_multiplier, example_level_epsilon
from fedrecon.privacy.distributed import DistributedNoise
from fedrecon.privacy.ledger import Ledger, Release, read_ledger
from fedrecon.privacy.methods.cheng import cheng
from fedrecon.privacy.methods.famhe import famhe

__all__ = [
    "Calibration",
    "DistributedNoise",
    "Ledger",
    "Release",
    "calibrate_noise_multiplier",
    "cheng",
    "example_level_epsilon",
    "famhe",
    "read_ledger",
]
