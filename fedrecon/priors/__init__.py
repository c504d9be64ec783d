"""Images from one measurement and a prior that no measurement has been in: functions of an operator."""

from fedrecon.priors.denoisers import Denoiser, diffpir, noise_levels, plug_and_play

__all__ = ["Denoiser", "diffpir", "noise_levels", "plug_and_play"]
