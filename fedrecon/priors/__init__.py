"""Images from one measurement and a prior that no measurement has been in: functions of an operator."""

from fedrecon.priors.denoisers import Denoiser, diffpir, noise_levels, plug_and_play
from fedrecon.priors.implicit import Implicit, implicit_representation

__all__ = [
    "Denoiser",
    "Implicit",
    "diffpir",
    "implicit_representation",
    "noise_levels",
    "plug_and_play",
]
