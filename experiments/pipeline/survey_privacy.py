"""Rows of the review's chapter on privacy."""

from experiments.pipeline.survey_rows import Row

_BUDGET = {"dp_epsilon": 8.0}

PRIVACY = (
    Row(
        "Beguier",
        "privacy",
        "accuracy 0.995 (+0.060)",
        "gene expressions",
        "none",
        ("chests",),
        "DP-SGD at every client: each example is protected, also from the server. The price is accuracy: "
        "it grows as sites get smaller.",
        settings=_BUDGET,
    ),
    Row(
        "deepee",
        "privacy",
        "Dice 0.950 (+0.007)",
        "liver segmentation, pediatric pneumonia",
        "none",
        ("chests",),
        "DP-SGD of networks that are checked, and made, to look at examples one by one. Use it where a "
        "network of one's own has batch normalization.",
        settings={**_BUDGET, "norm": "batch"},
    ),
    Row(
        "P3SGD",
        "privacy",
        "accuracy 0.953 (+0.021)",
        "glomeruli",
        "none",
        ("chests",),
        "Steps are single patients' changes, clipped, noised and scaled by validation patients. Use it "
        "where patients have many images; here each radiograph counts as one.",
        settings=_BUDGET,
    ),
    Row(
        "Li-SVT",
        "privacy",
        "Dice 0.850 (+0.044)",
        "brain tumors, 3-D MRI",
        "none",
        ("chests",),
        "Clients share the entries of their updates that the sparse vector technique selects. Values with "
        "Laplace noise are few and rough: FedAvg with DP-SGD is the better bargain.",
        settings={"algorithm_options": (("fraction", "0.001"), ("bound", "0.01"))},
    ),
    Row(
        "Cheng",
        "privacy",
        "F1 0.875 (+0.041)",
        "electrocardiograms",
        "none",
        ("encrypted",),
        "Updates are summed under Paillier encryption, and a ledger records the rounds. The server sees "
        "sums alone; ciphertexts are large, so for small models.",
    ),
    Row(
        "FAMHE",
        "privacy",
        "no figure",
        "genomes and survival",
        "none",
        ("encrypted",),
        "Updates are summed under a collective key, of which every client has a share: nobody alone can "
        "decrypt. Cheaper than Paillier at any size.",
    ),
    Row(
        "MediSecFed",
        "privacy",
        "accuracy 0.742 (+0.063)",
        "COVID-19 radiographs",
        "malicious clients",
        ("encrypted",),
        "No parameters travel: clients answer synthetic images, and a server's model learns from the "
        "answers. Use it where networks differ or clients are not trusted.",
        settings={"algorithm_options": (("images", "64"), ("inversion_steps", "50"))},
        smoke={"algorithm_options": (("images", "8"), ("inversion_steps", "2"))},
    ),
    Row(
        "Lai",
        "privacy",
        "accuracy 0.857 (-0.024)",
        "COVID-19 CT",
        "labels",
        ("chests",),
        "Clients keep their models and share the mean features of each class. Few bytes; nothing to hand "
        "to a new site.",
    ),
)
