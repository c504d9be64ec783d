"""The rows of the survey's frameworks: architectures of whole federations."""

from fedrecon import privacy
from fedrecon.catalog.entry import Entry


def _on_radiographs(name: str, options: str = "") -> str:
    """The command that trains on the measured chest radiographs."""
    task = "--task=classification --cohort=xray --data_dir=$FEDRECON_DATA"
    return f"experiments.train_federated --workdir=runs/{name} {task} --algorithm={name} {options}".rstrip()


FRAMEWORKS = (
    Entry(
        "singh",
        privacy.singh,
        "Singh et al. 2022, Future Generation Computer Systems 129:380",
        "a tamper-evident ledger of the rounds, with gateways of devices; no number changes",
        survey_row="Singh",
        tests=(
            "tests/privacy/test_singh.py::test_the_numbers_are_those_of_averaging_bit_for_bit",
            "tests/privacy/test_singh.py::test_a_repeated_run_has_the_digests_of_the_record",
            "tests/privacy/test_singh.py::test_gateways_sign_the_roots_of_their_devices",
            "tests/privacy/test_singh.py::test_proofs_have_at_most_the_stated_length",
            "tests/privacy/test_chain.py::test_every_flipped_bit_is_found",
            "tests/privacy/test_checkpoints.py::test_witnesses_sign_no_record_that_was_rolled_back_or_forked",
        ),
        command=_on_radiographs(
            "singh", "--rounds=4 --algorithm.ledger=runs/singh/rounds.jsonl --algorithm.gateways=2"
        ),
        needs=("clients",),
    ),
)
