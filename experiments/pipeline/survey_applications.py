"""Rows of the review's chapter on applications."""

from experiments.pipeline.survey_rows import Row

APPLICATIONS: tuple[Row, ...] = (
    Row(
        "Fed-Sim",
        "applications",
        "mIoU 0.789 (+0.119)",
        "CT of the heart",
        "acquisition",
        ("hearts",),
        "Sites learn label maps and materials together, each a renderer of its own, and train on simulated "
        "pairs besides real ones. Use it where labeled cases are few and scanners differ; the simulator "
        "costs many rounds before the first one, and its shapes may repeat those of a site.",
        smoke={"algorithm_options": (("simulator_rounds", "5"),)},
        besides="simulated",
        remark="no difference: simulated pairs buy nothing that can be told from chance here, for 2.1 GB of "
        "traffic before the first round. Label maps are nearer to a training case than chance has it "
        "in two of five seeds (p 0.004 and 0.04, by patients), images in none: shapes of so few "
        "patients may be remembered.",
    ),
    Row(
        "Pan",
        "applications",
        "Dice 0.869",
        "MRI of the cervical spine",
        "missing labels",
        ("hearts",),
        "Images without labels get those of the received model where it is sure, and features are drawn to "
        "its own. A fifth of the labels is seen here, FedAvg sees all. Use it where sites have many images "
        "and few labels; a model that is sure of what is wrong teaches it.",
        settings={"algorithm_options": (("labeled", "0.2"),)},
        shared={"network": "separated-unet"},
        rivals={
            "a fifth of the labels alone": {
                "algorithm": "pan",
                "algorithm_options": (("labeled", "0.2"), ("strength", "0")),
            }
        },
        remark="with a fifth of the labels 0.04 below FedAvg, which has all of them; labels that the "
        "received model is sure of, and features drawn to its own, make up 0.02 of the 0.06 that the "
        "missing labels cost, which is within chance.",
    ),
    Row(
        "Yang",
        "applications",
        "Dice 0.712 (+0.059)",
        "CT of liver tumors",
        "few cases",
        ("spheres", "vessels"),
        "A perceptron of patches finds the likelihood of their centers, in place of a U-Net. Use it where "
        "cases, bytes or time are few and what is looked for is small; it sees nothing beyond its patch.",
        rivals={
            "two layers of 50": {
                "algorithm": "yang",
                "algorithm_options": (("hidden", "50"), ("layers", "2")),
            }
        },
        remark="worse, and far cheaper: less than a third of a U-Net's bytes and seconds. A perceptron that "
        "sees patches of a few pixels does not tell a vessel from other edges, nor an inserted sphere "
        "from anatomy; two layers of 50 change nothing, so that it is the view, not the size.",
    ),
)
