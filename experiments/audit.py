"""Attacks a finished run and says in plain words what its updates and its model give away.

--workdir is the directory of a run of experiments.train_federated, or of experiments.full_stack, of which the
reconstruction is audited. Three audits:

  inversion   the example behind the update of one step on one example, the worst case, recovered unprotected,
              from a secure sum of up to eight sites, and with the noise of --dp.epsilon=8;
  membership  examples of the training told from those of test patients by the loss of the released model;
  canaries    the lower bound of epsilon that units put in by coins prove of the run's mechanism, beside what
              the run's ledger claims; of a run without privacy that of the same settings with --dp.epsilon=8.

It writes audit.html, audit.png and audit.json in the directory. The page holds an image of the run's data.

  python -m experiments.audit --workdir=runs/first
  python -m experiments.audit --workdir=runs/first --site=client3 --json
"""

import json
from pathlib import Path
from typing import Any

from absl import flags, logging

from experiments.pipeline.audit_page import document, verdict, write_page
from experiments.pipeline.auditing import audit_noise, claim_of, infer_members, invert_update, open_run
from fedrecon.files import write_atomically
from fedrecon.runtime import ending, run_program
from fedrecon.training import as_json


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
    flags.DEFINE_string("stage", None, "Stage of a full-stack run; reconstruction is the only one.")
    flags.DEFINE_string("site", None, "Site whose update is inverted; the first by default.")
    flags.DEFINE_integer("iterations", 600, "Steps of each inversion.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the attacks.", lower_bound=0)
    flags.DEFINE_bool("json", False, "Print one JSON object.")


def run(
    workdir: str, *, stage: str | None = None, site: str | None = None, iterations: int = 600, seed: int = 0
) -> dict[str, Any]:
    """Audits a run, writes its page, and returns what ``audit.json`` holds.

    Raises:
      ValueError: the run cannot be audited; names the flag or the file.
    """
    folder = Path(workdir)
    subject = open_run(folder, stage)
    recovered = invert_update(subject, site, iterations=iterations, seed=seed)
    members = infer_members(subject)
    claim = claim_of(subject)
    canaries = audit_noise(subject, claim, seed)
    found = as_json(document(subject, recovered, members, claim, canaries))
    found["verdict"] = verdict(found)
    write_page(folder, found, recovered)
    write_atomically(folder / "audit.json", (json.dumps(found, indent=2) + "\n").encode())
    return found


def main(_: list[str]) -> None:
    values = flags.FLAGS
    logging.set_verbosity(logging.WARNING)
    with ending():
        found = run(
            values.workdir,
            stage=values.stage,
            site=values.site,
            iterations=values.iterations,
            seed=values.seed,
        )
    if values.json:
        print(json.dumps(found))
        return
    print(found["verdict"])
    print(f"wrote {Path(values.workdir) / 'audit.html'}")


if __name__ == "__main__":
    define_flags()
    run_program(main)
