"""Privacy of federated training: what a run costs each site's patients, and the noise a budget demands."""

from fedrecon.privacy.accounting import Calibration, calibrate_noise_multiplier, example_level_epsilon

__all__ = ["Calibration", "calibrate_noise_multiplier", "example_level_epsilon"]
