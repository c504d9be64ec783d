"""Attacks on updates, models and aggregation, by which protections are measured.

Recovered examples (`invert`, `deep_leakage`), membership inference (`membership_figures`, `lira`), lower
bounds of epsilon (`audit_canaries`), and malicious clients (`poison`).
"""

from fedrecon.attacks.canaries import (
    CanaryAudit,
    audit_canaries,
    canary_scores,
    unit_directions,
    with_gradient_canaries,
    with_site_canaries,
)
from fedrecon.attacks.gradient_inversion import (
    Inversion,
    deep_leakage,
    invert,
    labels_of,
    signed_adam,
    update_distance,
)
from fedrecon.attacks.matching import Match, match
from fedrecon.attacks.membership import (
    Membership,
    lira,
    logit_scores,
    loss_scores,
    mean_over_rounds,
    membership_figures,
    shadow_halves,
    shadow_scores,
)
from fedrecon.attacks.poisoning import (
    ATTACKS,
    Attack,
    alie,
    answer_flip,
    backdoor,
    free_rider,
    gaussian,
    inner_product,
    label_flip,
    poison,
    sign_flip,
    trigger,
)
from fedrecon.attacks.riding import Ride, disguised_noise, echo, false_size, stale
from fedrecon.attacks.unknowns import Unknown, images, measurements, total_variation
from fedrecon.attacks.updates import clipped_and_noised, gradient_update, local_update, mean_update, smoothed

__all__ = [
    "ATTACKS",
    "Attack",
    "CanaryAudit",
    "Inversion",
    "Match",
    "Membership",
    "Ride",
    "Unknown",
    "alie",
    "answer_flip",
    "audit_canaries",
    "backdoor",
    "canary_scores",
    "clipped_and_noised",
    "deep_leakage",
    "disguised_noise",
    "echo",
    "false_size",
    "free_rider",
    "gaussian",
    "gradient_update",
    "images",
    "inner_product",
    "invert",
    "label_flip",
    "labels_of",
    "lira",
    "local_update",
    "logit_scores",
    "loss_scores",
    "match",
    "mean_over_rounds",
    "mean_update",
    "measurements",
    "membership_figures",
    "poison",
    "shadow_halves",
    "shadow_scores",
    "sign_flip",
    "signed_adam",
    "smoothed",
    "stale",
    "total_variation",
    "trigger",
    "unit_directions",
    "update_distance",
    "with_gradient_canaries",
    "with_site_canaries",
]
