"""Weights that others have published, as networks and variables of ours: fastMRI's and DIRECT's."""

from fedrecon.published_weights.direct import from_direct, read_direct
from fedrecon.published_weights.fastmri import from_fastmri, read_fastmri
from fedrecon.published_weights.files import SUFFIXES, read_published

__all__ = ["SUFFIXES", "from_direct", "from_fastmri", "read_direct", "read_fastmri", "read_published"]
