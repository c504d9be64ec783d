"""Trains between processes with certificates, of a server and of each site, on NVIDIA FLARE or on Flower.

init makes certificates and a folder for each party; check-site is what a site's engineer runs first; run
starts server and sites on this machine, trains, and compares the parameters with the same training in one
process; status says where it is, resume goes on after an interruption (as run does). docs/deployment.md
says what a hospital needs. Settings are those of train_federated, with small sizes (--preset=smoke) and 3
rounds unless given; --method=dp_secure_sum is fedavg with --dp.epsilon=8 and --secure_aggregation=secagg.
Needs the extra of the engine, flare or flower; flower wants an environment of its own.

  python -m experiments.deploy --engine=flare init --workdir=runs/flare --sites=3 --method=scaffold
  python -m experiments.deploy --engine=flare check-site --workdir=runs/flare --site=site-1
  python -m experiments.deploy --engine=flare run --workdir=runs/flare --json
  python -m experiments.deploy --engine=flower run --workdir=runs/flower --sites=3 --method=dp_secure_sum
"""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from absl import flags

from experiments.pipeline.deploy_run import (
    FILE,
    Deployment,
    cheap_compilation,
    finished,
    initialize,
    parity,
    read_deployment,
    rounds_of,
    run,
    say,
    status,
)
from experiments.pipeline.federated_settings import BY_PRESET, TrainSettings, resolve
from experiments.pipeline.programs import (
    DOTTED,
    fail,
    flag_groups,
    given_settings,
    read_own_files,
    with_flag_files,
)
from experiments.pipeline.settings_flags import define_flags as define_settings
from fedrecon.deployment import ENGINES
from fedrecon.errors import ArgumentError
from fedrecon.runtime import check_values, ending, run_program, show_help
from fedrecon.training import Dotted, FlagError, split_dotted

ACTIONS = ("init", "check-site", "run", "status", "resume")
FIRST = (
    "workdir",
    "engine",
    "sites",
    "method",
    "rounds",
    "json",
    "site",
    "host",
    "port",
    "data_dir",
    "cohort",
)
# Names that stand for a method with flags of protection.
SHORT = {"dp_secure_sum": {"algorithm": "fedavg", "dp_epsilon": 8.0, "secure_aggregation": "secagg"}}


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of this program; not on import, so that other programs may use their names."""
    options: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_string("workdir", None, "Folder of the deployment.", required=True, **options)
    flags.DEFINE_enum("engine", "flare", list(ENGINES), "What carries the messages.", **options)
    flags.DEFINE_integer("sites", 3, "Number of sites.", lower_bound=2, upper_bound=100, **options)
    flags.DEFINE_string("method", "fedavg", "Method of the catalog, or dp_secure_sum.", **options)
    flags.DEFINE_bool("json", False, "Print one JSON object, and nothing else on standard output.", **options)
    flags.DEFINE_string("site", "site-1", "Site of check-site.", **options)
    flags.DEFINE_string("host", "localhost", "Where sites find the server.", **options)
    flags.DEFINE_integer(
        "port", 0, "TCP port of the server; 0 takes a free one.", lower_bound=0, upper_bound=65535, **options
    )
    text = "Fewest sites that a round is closed with; 0 is all."
    flags.DEFINE_integer("minimum", 0, text, lower_bound=0, **options)
    text = "Seconds that sites have for an answer; 0 is any."
    flags.DEFINE_integer("deadline", 0, text, lower_bound=0, **options)
    text = (
        "Sites draw batches and noise from keys of their own, which the server does not know; no comparison."
    )
    flags.DEFINE_bool("own_keys", False, text, **options)
    define_settings(
        TrainSettings, without=("algorithm", "clients"), by_preset=BY_PRESET, flag_values=flag_values
    )


def parse_flags(argv: list[str]) -> tuple[str, Dotted]:
    """The action and the flags with a dot."""
    argv = with_flag_files(argv)
    read_own_files(argv)
    show_help(argv, flag_groups(TrainSettings), FIRST)
    try:
        rest, dotted = split_dotted(argv, DOTTED)
        positional = flags.FLAGS(rest)[1:]
        check_values()
        if len(positional) != 1 or positional[0] not in ACTIONS:
            raise ArgumentError(
                "command line", f"one of {', '.join(ACTIONS)}", " ".join(positional) or "none"
            )
    except (flags.Error, ArgumentError) as error:
        fail(str(error))
    return positional[0], dotted


def settings_of(dotted: Dotted) -> tuple[TrainSettings, bool]:
    """The settings, and whether any were given."""
    values = flags.FLAGS
    given = given_settings(TrainSettings, dotted)
    if values.method == "fedbuff":
        expected = (
            "one whose rounds wait for sites: asynchronous ones are simulated by --topology=asynchronous"
        )
        raise FlagError("method", expected, values.method)
    told = bool(given) or values["method"].present or values["sites"].present
    named = SHORT.get(values.method, {"algorithm": values.method})
    small = {"preset": "smoke", "rounds": 3}
    return resolve({**small, **named, **given, "clients": values.sites}), bool(told)


def begun(settings: TrainSettings) -> Deployment:
    """A new deployment in --workdir."""
    values = flags.FLAGS
    options = {name: values[name].value for name in ("engine", "host", "port")}
    options |= {name: values[name].value for name in ("minimum", "deadline", "own_keys")}
    return initialize(Path(values.workdir), settings, policy={}, **options)


def known() -> Deployment:
    """That of --workdir.

    Raises:
      FlagError: there is none, or one of another engine.
    """
    values = flags.FLAGS
    made = read_deployment(Path(values.workdir))
    if values["engine"].present and values.engine != made.engine:
        raise FlagError("engine", f"{made.engine}, that of the deployment in {values.workdir}", values.engine)
    return made


def deployment(dotted: Dotted) -> Deployment:
    """That of --workdir, made if there is none.

    Raises:
      FlagError: there is one of other settings.
    """
    from experiments.pipeline.deployed import as_job

    values = flags.FLAGS
    settings, told = settings_of(dotted)
    if not (Path(values.workdir) / FILE).exists():
        return begun(settings)
    made = known()
    if told and as_job(settings) != made.settings:
        raise FlagError("workdir", "a folder without a deployment of other settings", values.workdir)
    return made


def show(result: dict[str, Any]) -> None:
    """Prints a result, as JSON if it is asked for."""
    if flags.FLAGS.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name}: {value}")


def main(parsed: tuple[str, Dotted]) -> None:
    action, dotted = parsed
    values = flags.FLAGS
    with ending(f"the same command with --workdir={values.workdir} continues"):
        if action == "init":
            made = begun(settings_of(dotted)[0])
            show({"workdir": str(made.folder), "kits": str(made.kits), "sites": ", ".join(made.sites)})
        elif action == "check-site":
            from experiments.pipeline.deploy_check import check_site, print_page

            made = known()
            verdicts = check_site(made, values.site)
            if values.json:
                print(json.dumps([verdict._asdict() for verdict in verdicts]))
            else:
                print_page(values.site, made.job, verdicts)
            if any(verdict.kind == "stop" for verdict in verdicts):
                raise SystemExit(1)
        elif action == "status":
            show(status(known()))
        else:
            if action == "resume":
                known()
            made = deployment(dotted)
            if made.settings.get("preset") == "smoke":
                cheap_compilation()
            start = time.monotonic()
            if not finished(made):
                first = run(made, say)
                say(f"the first round was closed after {first:.1f} s")
            seconds = time.monotonic() - start
            with contextlib.redirect_stdout(None):
                difference = parity(made)
            show({"rounds": rounds_of(made), "parity": difference, "seconds": round(seconds, 2)})


if __name__ == "__main__":
    define_flags()
    run_program(main, parse_flags)
