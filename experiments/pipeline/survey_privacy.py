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
        remark="at epsilon 8 with some tens of labels a client the noise leaves nothing but the frequent "
        "class (0.758 is what needs no training); the interval of the difference has zero in it, "
        "since FedAvg is hardly better in some seeds. For budgets that networks survive see "
        "[privacy.md](privacy.md).",
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
        remark="the same as Beguier, whose mechanism it is: with group normalization in place of batch "
        "normalization, and nothing learned at this size.",
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
        remark="as little as with DP-SGD, and sixteen times its seconds: steps of single patients are "
        "few, and each radiograph is a patient here.",
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
        remark="no difference shown, with a wide interval: a thousandth of the entries, rough "
        "with noise, moves the model to the wrong class in some seeds.",
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
        remark="equal to FedAvg, as it has to be. Paillier's ciphertexts are twice the bytes of these "
        "rounds.",
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
        remark="equal to FedAvg, as it has to be, for forty times the bytes of so small a network.",
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
        remark="0.16 better on average in three rounds, where FedAvg has learned nothing yet; the interval "
        "has zero in it. Clients keep models of their own, which is what helps (each alone has "
        "0.870).",
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
        remark="0.11 better on average for a hundredth of the bytes, with zero in the interval: clients' own "
        "models are what helps where labels differ this much, and each alone is as good.",
    ),
)
