"""Rows of the review's algorithms that pre-train without labels, by contrast (its Table 2)."""

from fedrecon.catalog.entry import Entry
from fedrecon.federated.methods.fedmoco import fedmoco
from fedrecon.federated.methods.wu_dermatology import wu_dermatology
from fedrecon.federated.methods.wu_volumetric import wu_volumetric

_CONTRAST = "tests/federated/test_momentum_contrast.py::test_"
_REMOTE = "tests/federated/test_remote_features.py::test_"
# Hearts are of one hospital, whose patients are divided.
_DIVIDED = "--partition=quantity --concentration=10 --clients=4"


def _pretrained(name: str, data: str) -> str:
    """The command that pre-trains without labels, then trains with those of a tenth of the patients."""
    rest = f"--pretraining={name} --labels=0.1 --choices=full,head {data} --data_dir=$FEDRECON_DATA"
    return f"experiments.finetune --workdir=runs/{name} {rest} --optimizer=adam --learning_rate=0.003"


CONTRASTIVE = (
    Entry(
        "fedmoco",
        fedmoco,
        "Dong and Voiculescu 2021, MICCAI, arXiv:2109.07504",
        "pre-training by contrast, negatives from Gaussians of others' features; who moved more weighs more",
        survey_row="FedMoCo",
        tests=(
            _CONTRAST + "two_rounds_of_fedmoco_are_those_of_its_equations",
            _CONTRAST + "without_remote_features_all_are_federated_momentum_contrast_bit_for_bit",
            _CONTRAST + "draws_have_the_moments_that_were_sent_and_none_is_of_the_client_itself",
            _CONTRAST + "a_client_never_sees_its_own_features_from_the_server",
            _CONTRAST + "equal_models_weigh_equally_and_who_moved_more_weighs_more",
            "tests/alignment/test_representations.py::test_dissimilarities_do_not_see_order_gain_and_offset",
        ),
        command=_pretrained("fedmoco", "--task=classification --cohort=xray"),
        needs=("contrast", "clients"),
        fixes=("weighting",),
        linear=False,
    ),
    Entry(
        "wu_dermatology",
        wu_dermatology,
        "Wu et al. 2021, Contrastive Learning for Dermatological Disease Diagnosis, ICCAD",
        "pre-training by contrast, with negatives, and positives, from other clients' features",
        survey_row="Wu-dermatology",
        tests=(
            _CONTRAST + "two_rounds_of_wu_for_dermatology_are_those_of_the_equations",
            _CONTRAST + "without_remote_features_all_are_federated_momentum_contrast_bit_for_bit",
            _REMOTE + "remote_features_are_drawn_once_each_without_those_that_are_absent",
            _REMOTE + "of_the_banks_a_client_leaves_out_its_own_and_what_is_not_filled",
            _REMOTE + "remote_positives_wait_for_the_warm_up_and_are_no_negatives",
        ),
        command=_pretrained("wu_dermatology", "--task=classification --cohort=xray"),
        needs=("contrast", "clients"),
        linear=False,
    ),
    Entry(
        "wu_volumetric",
        wu_volumetric,
        "Wu et al. 2021, Contrastive Learning for Volumetric Segmentation, MICCAI",
        "pre-training by contrast, in which slices of one part of a volume attract each other at all clients",
        survey_row="Wu-volumetric",
        tests=(
            _CONTRAST + "two_rounds_of_wu_for_volumes_are_those_of_the_equations",
            _REMOTE + "of_one_client_the_remote_part_is_contrast_by_partition_with_its_bank",
            _REMOTE + "without_partitions_the_loss_is_constant_and_the_order_of_banks_does_not_matter",
            _REMOTE + "slices_have_partitions_of_equal_sizes",
        ),
        command=_pretrained("wu_volumetric", f"--task=segmentation --cohort=sunnybrook {_DIVIDED}"),
        needs=("contrast", "volumes", "clients"),
        linear=False,
    ),
)
