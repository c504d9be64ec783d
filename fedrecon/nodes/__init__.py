"""Nodes of a federation as Fed-BioMed has them: registered data, approved plans, policies of owners.

Nothing here opens a connection: `Node.train` is what a transport calls at a site, `run_round` what a
researcher does with the answers, in one process or with nodes that hand jobs on.
"""

from fedrecon.nodes.node import OPTIMIZERS, Job, Node, Policy, Reply
from fedrecon.nodes.plans import Approvals, Plan, identity
from fedrecon.nodes.registry import Dataset, Found, Registry
from fedrecon.nodes.researcher import Round, averaged, run_round

__all__ = [
    "OPTIMIZERS",
    "Approvals",
    "Dataset",
    "Found",
    "Job",
    "Node",
    "Plan",
    "Policy",
    "Registry",
    "Reply",
    "Round",
    "averaged",
    "identity",
    "run_round",
]
