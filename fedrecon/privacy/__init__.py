"""Privacy of federated training: what a run costs each site's patients, and the noise a budget demands.

Methods by name are in ``methods``, a tamper-evident record of rounds in `chain`.
"""

from fedrecon.privacy import chain as chain
from fedrecon.privacy.accounting import (
    ACCOUNTANT,
    RELATION,
    RENYI_ACCOUNTANT,
    Calibration,
    calibrate_noise_multiplier,
    composed,
    default_delta,
    epsilon_of,
    selection_event,
    training_event,
    with_noise,
)
from fedrecon.privacy.distributed import DistributedNoise
from fedrecon.privacy.ledger import Ledger, Release, read_ledger
from fedrecon.privacy.methods.beguier import beguier
from fedrecon.privacy.methods.cheng import cheng
from fedrecon.privacy.methods.deepee import deepee
from fedrecon.privacy.methods.famhe import famhe
from fedrecon.privacy.methods.p3sgd import p3sgd
from fedrecon.privacy.methods.singh import singh
from fedrecon.privacy.model_check import check_examples_apart
from fedrecon.privacy.noisy_sum import noisy_secure_sum
from fedrecon.privacy.strategies import buffered_strategy_of, strategy_of

__all__ = [
    "ACCOUNTANT",
    "RELATION",
    "RENYI_ACCOUNTANT",
    "Calibration",
    "DistributedNoise",
    "Ledger",
    "Release",
    "beguier",
    "buffered_strategy_of",
    "calibrate_noise_multiplier",
    "check_examples_apart",
    "cheng",
    "composed",
    "deepee",
    "default_delta",
    "epsilon_of",
    "famhe",
    "noisy_secure_sum",
    "p3sgd",
    "read_ledger",
    "selection_event",
    "singh",
    "strategy_of",
    "training_event",
    "with_noise",
]
