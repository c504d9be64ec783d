"""What each site has: matrices, coils, undersampling, scanners, noise and intensities, without small counts.

Of a folder of hospitals (docs/own_data.md; folders of fastMRI files are some) or of a cohort of the training
programs. Every site releases counts of its volumes and quantiles of histograms with common bins; counts
below --minimum, and others that would tell them, are left out, and the sums over sites are sums of what was
released. Sites of fewer volumes than --minimum tell no quantiles either.

  python -m experiments.data_report --data_dir=DIR
  python -m experiments.data_report --cohort=simulated_mri --patients_per_site=20 --json
"""

import json
from typing import Any

from absl import flags

from experiments.pipeline.data_profile import document, of_clients, of_folder, profile
from experiments.pipeline.federated_data import load_data
from experiments.pipeline.federated_settings import COHORTS, SIMULATED, resolve
from fedrecon.data.folders import is_simulated
from fedrecon.reporting import format_table
from fedrecon.runtime import ending, run_program
from fedrecon.training import TASKS, FlagError

# Answers of a question that a table shows.
_MOST = 3


def define_flags() -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    flags.DEFINE_enum("cohort", None, COHORTS, "Cohort of the training programs (default: a folder).")
    flags.DEFINE_string("data_dir", "", "Folder of hospitals, or of the public files of a --cohort.")
    flags.DEFINE_enum("task", "reconstruction", TASKS, "Task that a --cohort is for.")
    flags.DEFINE_integer("patients_per_site", 6, "Mean number of patients of simulated sites.", lower_bound=3)
    flags.DEFINE_integer("seed", 0, "Seed of simulated cohorts.", lower_bound=0)
    flags.DEFINE_integer("minimum", 10, "Least count that is told; 1 for one's own eyes.", lower_bound=1)
    flags.DEFINE_bool("skip_bad", False, "Leave out files with a fault.")
    flags.DEFINE_bool("json", False, "Print JSON.")


def report(values: Any) -> dict[str, Any]:
    """The document of `data_profile.document`, of what the flags name.

    Raises:
      ValueError: a flag or a file does not fit.
    """
    if values.cohort is None and not values.data_dir:
        raise FlagError("data_dir", "a folder, or a --cohort", repr(values.data_dir))
    folder = values.cohort in (None, "folder")
    if folder and not is_simulated(values.data_dir):
        records = of_folder(values.data_dir, skip_bad=values.skip_bad)
    else:
        given: dict[str, Any] = {"cohort": values.cohort or "folder", "task": values.task}
        given |= {"seed": values.seed, "data_dir": values.data_dir}
        given |= {"patients_per_site": values.patients_per_site} if values.cohort in SIMULATED else {}
        records = of_clients(load_data(resolve(given)))
    return document({name: profile(of) for name, of in records.items()}, values.minimum)


def table(found: dict[str, Any]) -> str:
    """A row of each site and of all."""
    few = f"< {found['minimum']}"
    rows = []
    questions = list(dict.fromkeys(q for site in found["sites"].values() for q in site["counts"]))
    for name, site in [*found["sites"].items(), ("all, at least", found["all"])]:
        numbers = [few if site[k] is None else str(site[k]) for k in ("patients", "volumes", "slices")]
        answers = [_answers(site["counts"].get(question, {})) for question in questions]
        rows.append(
            [name, *numbers, *answers, _range(site["snr_db_quartiles"]), _range(site["intensity_quantiles"])]
        )
    header = ["site", "patients", "volumes", "slices", *questions, "SNR, dB: quartiles"]
    note = f"Counts of volumes; – is not told, since it, or what it would tell, is below {found['minimum']}."
    return format_table([*header, "values: 1, 25, 50, 75, 99 %"], rows) + "\n" + note


def _answers(of: dict[str, int | None]) -> str:
    shown = sorted(of.items(), key=lambda pair: -(pair[1] or 0))
    texts = [f"{answer}: {'–' if number is None else number}" for answer, number in shown[:_MOST]]
    return ", ".join(texts) + (", ..." if len(shown) > _MOST else "") or "–"


def _range(values: list[float] | None) -> str:
    return "–" if values is None else " ".join(f"{value:g}" for value in values)


def main(_: list[str]) -> None:
    values = flags.FLAGS
    with ending("nothing was written"):
        found = report(values)
    print(json.dumps(found) if values.json else table(found))


if __name__ == "__main__":
    define_flags()
    run_program(main)
