"""Causes faults of a deployment, and says in a line each what happened and whether anything was lost.

Between server and sites of this process: another network, other data, messages beyond a site's limit or cut.
Between processes with certificates, each in a deployment of its own (minutes): a site killed, the server
killed, the link of a site cut for 30 s, a site that stands still, a certificate of another authority or a key
that the server does not know. --only takes some of them.

  python -m experiments.deploy_faults --workdir=runs/faults --json
  python -m experiments.deploy_faults --workdir=runs/faults --engine=flower --only=messages,site_killed
"""

import contextlib
import json
from pathlib import Path

from absl import flags

from experiments.pipeline.deploy_faults import messages, processes, table
from experiments.pipeline.deploy_run import cheap_compilation, say
from experiments.pipeline.federated_settings import resolve
from fedrecon.deployment import ENGINES
from fedrecon.runtime import ending, run_program
from fedrecon.training import FlagError

KINDS = ("messages", "site_killed", "server_restarted", "link_cut", "slow_site", "wrong_certificate")


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_string("workdir", None, "Folder of the deployments, which must not be there.", required=True)
    flags.DEFINE_enum("engine", "flare", list(ENGINES), "What carries the messages between processes.")
    flags.DEFINE_list("only", list(KINDS), f"Some of {', '.join(KINDS)}.")
    flags.DEFINE_integer("sites", 2, "Number of sites.", lower_bound=2, upper_bound=10)
    flags.DEFINE_integer("rounds", 3, "Rounds of each training.", lower_bound=2)
    flags.DEFINE_bool("json", False, "Print one JSON object, and nothing else on standard output.")


def main(_: list[str]) -> None:
    values = flags.FLAGS
    if unknown := [name for name in values.only if name not in KINDS]:
        raise FlagError("only", f"some of {', '.join(KINDS)}", ", ".join(unknown))
    folder = Path(values.workdir)
    if folder.exists():
        raise FlagError("workdir", "a folder that is not there", values.workdir)
    cheap_compilation()
    settings = resolve({"preset": "smoke", "rounds": values.rounds, "clients": values.sites})
    with ending(f"what was seen is in the logs of {folder}"), contextlib.redirect_stdout(None):
        found = messages(folder / "messages", settings) if "messages" in values.only else []
        found += processes(folder, settings, values.engine, tuple(values.only), say)
    result = table(found)
    if values.json:
        print(json.dumps(result))
        return
    for fault in found:
        print(f"{fault.name}: {fault.seen}; {'SOMETHING WAS LOST' if fault.lost else 'nothing was lost'}")


if __name__ == "__main__":
    define_flags()
    run_program(main)
