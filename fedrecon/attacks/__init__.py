"""Attacks on updates, models and aggregation, by which protections are measured.

Recovered examples (`invert`, `deep_leakage`) and malicious clients (`poison`).
"""

from fedrecon.attacks.gradient_inversion import (
    Inversion,
    deep_leakage,
    invert,
    labels_of,
    signed_adam,
    update_distance,
)
from fedrecon.attacks.matching import Match, match
from fedrecon.attacks.poisoning import (
    ATTACKS,
    Attack,
    alie,
    backdoor,
    free_rider,
    gaussian,
    inner_product,
    label_flip,
    poison,
    sign_flip,
    trigger,
)
from fedrecon.attacks.unknowns import Unknown, images, measurements, total_variation
from fedrecon.attacks.updates import clipped_and_noised, gradient_update, local_update, mean_update

__all__ = [
    "ATTACKS",
    "Attack",
    "Inversion",
    "Match",
    "Unknown",
    "alie",
    "backdoor",
    "clipped_and_noised",
    "deep_leakage",
    "free_rider",
    "gaussian",
    "gradient_update",
    "images",
    "inner_product",
    "invert",
    "label_flip",
    "labels_of",
    "local_update",
    "match",
    "mean_update",
    "measurements",
    "poison",
    "sign_flip",
    "signed_adam",
    "total_variation",
    "trigger",
    "update_distance",
]
