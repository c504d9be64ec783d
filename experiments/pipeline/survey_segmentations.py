"""Rows of the review's applications that segment tumors, organs and prostates."""

from experiments.pipeline.survey_rows import Row

SEGMENTATIONS: tuple[Row, ...] = (
    Row(
        "Nalawade",
        "applications",
        "Dice 0.696",
        "MRI of brain tumors, 17 institutions",
        "quality of labels",
        ("vessels", "corrupted", "mislabeled"),
        "Clients weigh by the validation score of what they have trained. Use it where the labels of some "
        "sites may be wrong and validation splits are sound; a site whose validation labels are as wrong as "
        "its training labels scores well on them, and weighs almost as much as any other.",
        rivals={"FedCE": {"algorithm": "fedce"}},
        remark="equal to FedAvg where all masks are right. With wrong masks in one site's training its "
        "weight falls from 0.21 to 0.007, and Dice at the sites rises by 0.04 ± 0.05; where its "
        "validation masks are wrong, too, it keeps 0.16. FedCE does the opposite in both.",
    ),
    Row(
        "Sheller",
        "applications",
        "Dice 0.858 (+0.126)",
        "MRI of brain tumors, ten institutions",
        "acquisition",
        ("hearts",),
        "The model visits site after site, in another order in each cycle, where FedAvg beside it averages. "
        "Cycles need no server that averages; each visit forgets some of the sites before, a single pass of "
        "long visits most of all.",
        settings={"topology": "ring", "visits": "shuffled"},
        besides="visits",
        remark="visits forget, averages do not, as in the publication: what institutions lose after their "
        "own visit is 0.11 ± 0.06 in cycles and 0.01 ± 0.03 with averages, and the worst institution "
        "ends 0.28 ± 0.18 lower after single visits. At the end of all cycles the mean is within "
        "chance of FedAvg's.",
    ),
    Row(
        "Wang",
        "applications",
        "Dice 0.731 (+0.128)",
        "CT of the pancreas, healthy and with tumors",
        "case mix",
        ("lesions",),
        "One site has patients with lesions alone, the other patients without any. The rounds are those of "
        "FedAvg, and so is the model; Dice is of patients with lesions, while the other rows count those "
        "without as 1 where nothing is marked. Use it where sites differ in whom they treat.",
        shared={"partition": "case_type", "validation_part": 0.15},
        comparable=False,
        remark="0.08 on patients with lesions alone; the other rows also count patients without any, so that "
        "no difference is told. One of the two sites has no lesion at all and pulls the shared model "
        "towards marking nothing, which batches of pooled data do not.",
    ),
    Row(
        "Kades",
        "applications",
        "Dice 0.906 (+0.005)",
        "MRI of the prostate",
        "acquisition",
        ("hearts",),
        "Sites agree on intensities before the rounds, and the rate falls as in one training. Use it with "
        "networks that were configured for one data set. All images share one scale, so that it is no remedy "
        "for scanners that differ.",
        settings={"algorithm_options": (("fingerprint", "accurate"),)},
        remark="no difference: one scale of intensities for all does not help where simulated scanners "
        "differ by more than scale, and instance normalization takes scales away in any case.",
    ),
    Row(
        "Pati",
        "applications",
        "Dice 0.832 (+0.172)",
        "MRI of glioblastoma, 71 institutions",
        "acquisition",
        ("hearts",),
        "Sites join over time, and the consensus model that they score best is handed out. Use it where "
        "sites are not ready at the same time; who joins last has trained least.",
        settings={"algorithm_options": (("founders", "2"), ("join_every", "3"))},
        remark="a little worse, for 30 % fewer bytes: two sites begin, the others join one by one in rounds "
        "that are few already, so that they train less. The model handed out is the best by their "
        "validation scores.",
    ),
)
