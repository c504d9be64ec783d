"""Privacy of federated training: what a run costs each site's patients, and the noise a budget demands."""

from fedrecon.privacy.accounting import Calibration, calibrate_noise_multiplier, example_level_epsilon
from fedrecon.privacy.ledger import Ledger, Release, read_ledger

__all__ = [
    "Calibration",
    "Ledger",
    "Release",
    "calibrate_noise_multiplier",
    "example_level_epsilon",
    "read_ledger",
]
