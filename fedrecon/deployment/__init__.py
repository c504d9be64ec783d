"""The federated round between real sites: the same halves of it as in the compiled simulation, over messages.

`LocalSite` answers messages of bytes, `coordinate` asks sites for them; what carries the bytes is not known
here. NVIDIA FLARE does in `fedrecon.deployment.flare`, which needs the extra ``flare``, Flower in
`fedrecon.deployment.flower`, which needs ``flower``; `engine_of` has what programs know of either.
"""

from fedrecon.deployment import flare as flare
from fedrecon.deployment import flower as flower
from fedrecon.deployment import plan as plan
from fedrecon.deployment.engine import ENGINES, SERVER, Command, Engine, Network, engine_of, minor_version
from fedrecon.deployment.errors import DeploymentError
from fedrecon.deployment.local import local_settings
from fedrecon.deployment.plan import Plan, Problem, check_deployable
from fedrecon.deployment.roster import Facts, one_client
from fedrecon.deployment.server import Job, Outcome, coordinate
from fedrecon.deployment.site import LocalSite, Policy, settings_digest
from fedrecon.deployment.wire import Packet, as_tree, named, pack, unpack

__all__ = [
    "ENGINES",
    "SERVER",
    "Command",
    "DeploymentError",
    "Engine",
    "Facts",
    "Job",
    "LocalSite",
    "Network",
    "Outcome",
    "Packet",
    "Plan",
    "Policy",
    "Problem",
    "as_tree",
    "check_deployable",
    "coordinate",
    "engine_of",
    "local_settings",
    "minor_version",
    "named",
    "one_client",
    "pack",
    "settings_digest",
    "unpack",
]
