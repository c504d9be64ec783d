"""Rows of the review's chapter on improved frameworks."""

from experiments.pipeline.survey_rows import Row

FRAMEWORKS = (
    Row(
        "FedDropoutAvg",
        "frameworks",
        "F1 0.910 (+0.014)",
        "colon histology",
        "labels",
        ("patterns",),
        "Some clients, and some parameters of each upload, are left out of the mean at random. It halves "
        "bytes; a regularizer for large models, not for small ones.",
        remark="FedAvg's accuracy for 70 % of its bytes. We think that what leaving out works against, "
        "overfitting of a large network, is not what a small one suffers from in 15 rounds.",
    ),
    Row(
        "FedCE",
        "frameworks",
        "Dice 0.831 (+0.048)",
        "fundus photographs",
        "acquisition, quality of sites",
        ("vessels", "hearts", "corrupted", "mislabeled"),
        "Clients weigh by what their updates add to those of the others, in gradient space and in "
        "validation. Use it where some sites see what others do not. A site whose masks are wrong is not "
        "weighed down: its updates are unlike those of the others, which counts as a contribution. A server "
        "has to see single updates, so that secure sums are refused.",
        remark="no difference on hearts, 0.01 worse on vessels, where sites are of like worth. A site whose "
        "masks are wrong gets 0.25 and 0.23 of the weight, where its share of the examples is 0.21: "
        "its updates are unlike those of the others, which counts as a contribution (see Nalawade, "
        "whose weights fall).",
    ),
    Row(
        "VAFL",
        "frameworks",
        "accuracy 0.972 (+0.009)",
        "prostate ADC maps",
        "acquisition",
        ("detectors",),
        "Images are translated to the manner of synthetic ones of the simplest site before training. Use "
        "it where images differ by gain and contrast; generators need many images.",
        settings={"algorithm_options": (("generator_steps", "400"), ("translator_steps", "100"))},
        smoke={"algorithm_options": (("generator_steps", "5"), ("translator_steps", "5"))},
        remark="equal to FedAvg: detectors that differ by gain, contrast and blur are what instance "
        "normalization takes away already. Generators have a fifth of the default steps, 400 and 100.",
    ),
    Row(
        "HarmoFL",
        "frameworks",
        "Dice 0.943 (+0.029)",
        "prostate MRI",
        "acquisition",
        (
            "vessels",
            "hearts",
        ),
        "Images get the mean amplitude spectrum of all sites, and gradients are those of perturbed "
        "weights. Use it where sites differ by gain, contrast and blur; spectra of single sites reach the "
        "server.",
        rivals={
            "HarmoFL with SCAFFOLD": {
                "algorithm": "harmofl_scaffold",
                "on": ("vessels",),
                "optimizer": "sgd",
                "learning_rate": 0.1,
            },
            "HarmoFL, mean intensity alone": {
                "algorithm": "harmofl",
                "algorithm_options": (("window", "0"),),
            },
        },
        remark="worse on vessels, equal on hearts. The mean amplitude spectrum in place of an image's own, "
        "as in the publication, takes contrast from thin vessels. With the mean intensity alone, "
        "which is the window of the authors' code, vessels are within 0.02 of FedAvg and hearts 0.01 "
        "above it: what is left to gain is little, we think because the network's instance "
        "normalization already takes gain and contrast away. With SCAFFOLD it has to train by SGD, "
        "for which rounds are too few: that row is about the optimizer.",
    ),
    Row(
        "IOP-FL",
        "frameworks",
        "Dice 0.893 (+0.018)",
        "prostate MRI",
        "acquisition, unseen site",
        (
            "vessels",
            "hearts",
            "heads",
        ),
        "Clients keep a running personal model beside the shared one; an unseen site routes among all of "
        "them. Use it where sites differ but little; it sends nothing more.",
        rivals={
            "IOP-FL on FedBN": {
                "algorithm": "iop_fl",
                "algorithm_options": (("private_normalization", "true"),),
            },
        },
        remark="no difference at home, with or without private normalization: in so few rounds a running "
        "mean of own models stays near the shared one. What it was made for is a site that did not "
        "train (`experiments.leave_one_site_out --adapt=routing`).",
    ),
    Row(
        "LC-Fed",
        "frameworks",
        "IoU 0.842 (+0.033)",
        "prostate MRI",
        "acquisition",
        (
            "vessels",
            "hearts",
        ),
        "Channels are selected by an embedding of the site, and private heads are calibrated where others'"
        " disagree. For sites that mark structures differently, with many rounds: half of the steps train "
        "the head alone.",
        remark="worse, because of the schedule: about half of the few steps train the head alone, and the "
        "publication trains 300 rounds. With eight epochs a round in place of two (`--methods=lc_fed "
        "--epochs=8` of `experiments.compare`, five seeds) it has 0.60 on vessels and 0.49 on hearts, "
        "where FedAvg with two has 0.61 and 0.56.",
    ),
    Row(
        "PRR-FL",
        "frameworks",
        "F1 0.708 (+0.192)",
        "skin diseases",
        "labels",
        (
            "patterns",
            "chests",
        ),
        "Clients share the amplitudes of their kernels and keep the phases, and a deputy carries what is "
        "shared to the personal model. For sites of strongly unequal classes.",
        remark="better on patterns divided by label, as its paper has it; each client alone is as good "
        "there, so that models of one's own are what helps.",
    ),
    Row(
        "BrainTorrent",
        "frameworks",
        "Dice 0.851 (+0.079)",
        "brain MRI",
        "no server",
        ("vessels",),
        "No server: clients take turns, pull newer models of the others and train on. Use it where nobody "
        "is trusted with a server; one client a round trains, so it gets three times the rounds.",
        turns=3,
        remark="better, by its steps: one model goes from client to client, and takes three times the "
        "steps of FedAvg's. Where sites see the same structures visits in turn come near pooled "
        "data.",
    ),
    Row(
        "Fed-BioMed",
        "frameworks",
        "no figure",
        "brain imaging, variational autoencoders",
        "sizes of sites",
        ("autoencoder",),
        "Nodes that decide themselves what runs on their data: approved plans, a minimum of examples. An "
        "arrangement, not an algorithm: numbers are those of FedAvg without small sites.",
        remark="equal to FedAvg, as it has to be: approval and minimum sizes decide who trains, and every "
        "site is large enough.",
    ),
    Row(
        "Elayan",
        "frameworks",
        "accuracy 0.974 (+0.005)",
        "photographs of the skin",
        "missing labels",
        ("few",),
        "A pre-trained backbone is frozen at first and thaws later, and unlabeled images enter by the "
        "model's own label. Use it with few labels and a good backbone.",
        settings={"algorithm_options": (("unlabeled", "0.5"), ("unfreeze", "3"))},
        start="simclr",
        starts={"FedAvg, same start": "simclr"},
        remark="worse: with twenty labels and thousands of images that get the model's own label, the first "
        "wrong ones teach the rest, and two of five seeds end below chance. FedAvg from the same "
        "start has 0.945. The publication has many labels; the weight of unlabeled images has to fall "
        "with their number.",
    ),
    Row(
        "Singh",
        "frameworks",
        "no figure",
        "devices in health care",
        "none",
        ("encrypted",),
        "A ledger of rounds that shows any later change, over gateways of devices. It changes no number: "
        "the difference from FedAvg has to be zero.",
        remark="equal to FedAvg, as it has to be.",
    ),
)
