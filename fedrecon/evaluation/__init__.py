"""Evaluation beyond a mean score: fairness, contribution, calibration, agreement, significance, trade-offs.

Functions of arrays and operators; nothing here knows of models or data sets.
"""

from fedrecon.evaluation.agreement import (
    AreaInterval,
    Limits,
    OperatingPoint,
    at_threshold,
    delong_interval,
    kappa,
    limits_of_agreement,
    operating_point,
)
from fedrecon.evaluation.calibration import Reliability, fit_temperature, reliability
from fedrecon.evaluation.clocks import convergence_score, target_score, time_to
from fedrecon.evaluation.conformal import (
    Coverage,
    conformal_quantile,
    coverage,
    error_scale,
    score_histogram,
)
from fedrecon.evaluation.contribution import Contribution, leave_one_out, sampled_shapley, shapley
from fedrecon.evaluation.copying import Memorization, memorization
from fedrecon.evaluation.disclosure import Released, add_released, release_counts
from fedrecon.evaluation.domains import RankCorrelation, frechet_distance, rank_correlation
from fedrecon.evaluation.fairness import Fairness, collaboration, performance_fairness
from fedrecon.evaluation.forgetting import Transfer, transfer
from fedrecon.evaluation.lesion_contrast import contrast, contrast_recovery, disc, lesion_place
from fedrecon.evaluation.lesions import Lesions, match_lesions
from fedrecon.evaluation.null_spaces import NullSpace, null_space
from fedrecon.evaluation.pareto import dominates, hypervolume, pareto_front
from fedrecon.evaluation.shifts import Shift, acquisition_probes, site_shifts
from fedrecon.evaluation.significance import PairedTest, holm, paired_test
from fedrecon.evaluation.sites import CrossSite, cross_site, cross_site_kappa
from fedrecon.evaluation.spreads import Spread, spread

__all__ = [
    "AreaInterval",
    "Contribution",
    "Coverage",
    "CrossSite",
    "Fairness",
    "Lesions",
    "Limits",
    "Memorization",
    "NullSpace",
    "OperatingPoint",
    "PairedTest",
    "RankCorrelation",
    "Released",
    "Reliability",
    "Shift",
    "Spread",
    "Transfer",
    "acquisition_probes",
    "add_released",
    "at_threshold",
    "collaboration",
    "conformal_quantile",
    "contrast",
    "contrast_recovery",
    "convergence_score",
    "coverage",
    "cross_site",
    "cross_site_kappa",
    "delong_interval",
    "disc",
    "dominates",
    "error_scale",
    "fit_temperature",
    "frechet_distance",
    "holm",
    "hypervolume",
    "kappa",
    "leave_one_out",
    "lesion_place",
    "limits_of_agreement",
    "match_lesions",
    "memorization",
    "null_space",
    "operating_point",
    "paired_test",
    "pareto_front",
    "performance_fairness",
    "rank_correlation",
    "release_counts",
    "reliability",
    "sampled_shapley",
    "score_histogram",
    "shapley",
    "site_shifts",
    "spread",
    "target_score",
    "time_to",
    "transfer",
]
