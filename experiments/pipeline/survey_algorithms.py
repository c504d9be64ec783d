"""Rows of the review's chapter on improved algorithms."""

from experiments.pipeline.survey_rows import Row

ALGORITHMS = (
    Row(
        "Tuladhar",
        "algorithms",
        "Dice 0.674 (+0.042)",
        "brain tumors, 3-D MRI",
        "sizes and quality of sites",
        ("vessels",),
        "Rates and local work that fall over the rounds, and weights that also look at validation scores "
        "and at how far a model is from the others. Use it where the last rounds jitter; a cosine schedule"
        " does most of it.",
        remark="worse. Local work falls to a third and the rate to a half in these 15 rounds, which is "
        "less training than FedAvg's where training is short already.",
    ),
    Row(
        "Ji",
        "algorithms",
        "accuracy 0.939 (+0.082)",
        "COVID-19 radiographs",
        "speed of clients",
        ("slow",),
        "Clients whose rounds take longer than the mean wait outside and are tried again later. Use it "
        "where rounds are paced by the slowest hospital; not where the slow one has the patients that "
        "nobody else has.",
        remark="no difference in accuracy, with large intervals: whether a slow client that is left out "
        "has classes that others lack depends on the seed. Its purpose is time; compare the "
        "simulated hours.",
    ),
    Row(
        "FedNorm",
        "algorithms",
        "convergence score 0.743 (+0.032)",
        "brain tumors, FeTS 2021",
        "numbers of steps, speed",
        ("slow",),
        "Changes are divided by the number of steps (FedNova), slow clients are pruned, and normalization "
        "layers adapt to test images. Use it where clients take unequal numbers of steps.",
        settings={"optimizer": "sgd"},
        remark="no difference shown. Slow clients are left out, as with Ji: where they have most examples "
        "of a class the accuracy falls, and differs by seed.",
    ),
    Row(
        "FedACS",
        "algorithms",
        "accuracy 0.745 (+0.011)",
        "chest radiographs",
        "labels, quality of sites",
        ("patterns",),
        "A curriculum of clients: those with a low loss first, all of them later. Use it where some sites "
        "have poor labels; where all are good it only delays the hard ones.",
        remark="no difference shown: no site has poor labels here, and a curriculum that begins with easy "
        "clients delays those that have the other classes.",
    ),
    Row(
        "FedDG",
        "algorithms",
        "Dice 0.870 (+0.020)",
        "fundus photographs, discs and cups",
        "acquisition, unseen site",
        (
            "unseen",
            "vessels",
            "hearts",
        ),
        "Steps also see images with the low-frequency amplitudes of other sites, exchanged once. Use it "
        "for a model that goes to hospitals that did not train; amplitudes are not raw images, but they do"
        " leave the site.",
        rivals={
            "FedDG with LoRA": {
                "algorithm": "feddg",
                "finetune": "lora",
                "start": "masked",
                "on": ("vessels",),
            }
        },
        remark="no difference at home, and at a hospital that did not train 0.01 better in four of five "
        "seeds, which five seeds do not tell from chance (+0.011 ± 0.011); pooled data gain 0.05 "
        "there. Low-rank updates of so small a network from a start without labels learn next to "
        "nothing in as many rounds.",
    ),
    Row(
        "Li-MoE",
        "algorithms",
        "accuracy 0.742 (+0.008)",
        "resting-state fMRI (ABIDE)",
        "acquisition",
        ("detectors",),
        "A private expert is mixed with the shared model, uploads are noised, and encoders hide the site. "
        "Use it where a site needs a model of its own beside the shared one; its noise alone is no "
        "differential privacy.",
        remark="slightly worse, and as good as each client alone: private experts follow their own few "
        "examples, noised uploads slow the shared one, and encoders that hide the detector hide what "
        "little the network had learned of it. It sends twice the bytes.",
    ),
    Row(
        "FL-MRCM",
        "algorithms",
        "SSIM 0.911 (+0.013)",
        "knees and brains, accelerated MRI",
        "acquisition",
        ("scanners",),
        "Source sites align the latents of their networks with those of a target site. Use it where one "
        "site's images matter and others' scanners differ; latents of the target leave it without noise, so "
        "that a privacy budget is refused.",
        remark="slightly worse for all sites, which is what it is scored by: aligning latents with one "
        "target spends steps of the sources on it. The publication scores the target alone, and "
        "trains for more than twelve rounds. A budget is refused, since the target's latents leave it "
        "without noise.",
    ),
    Row(
        "FedMoCo",
        "algorithms",
        "accuracy 0.916 (+0.120)",
        "COVID-19 radiographs",
        "missing labels",
        ("few",),
        "Pre-training by contrast of views with statistics of the other sites' features as further "
        "negatives, then training with few labels. Use it where images are many and labels few.",
        method="fedavg",
        start="fedmoco",
        starts={"FedSimCLR": "simclr"},
        remark="no difference: with twenty labels FedAvg from random weights is within 0.01 of pooled data, "
        "so that a start without labels has little to give. Plain contrast without exchange "
        "(FedSimCLR) is as good.",
    ),
    Row(
        "Wu-dermatology",
        "algorithms",
        "recall 0.592 (+0.006)",
        "photographs of the skin",
        "missing labels",
        ("few",),
        "Pre-training by contrast in which sites share features, so that a site with few classes sees "
        "others. Features of single images leave the site: not where these count as data.",
        method="fedavg",
        start="wu_dermatology",
        starts={"FedSimCLR": "simclr"},
        remark="no difference, as with FedMoCo and for the same reason; fused features of other sites add "
        "nothing to contrast at home.",
    ),
    Row(
        "Wu-volumetric",
        "algorithms",
        "Dice 0.894 (+0.035)",
        "cardiac MRI (ACDC)",
        "missing labels",
        ("slices",),
        "Pre-training by contrast in which slices of the same part of the body are positives, at all "
        "sites. Use it for volumes that are aligned, with few of them labeled.",
        method="fedavg",
        start="wu_volumetric",
        starts={"FedSimCLR": "simclr"},
        remark="0.05 better on average, with an interval that has zero in it: with a fifth of the labels a "
        "start without labels helps in most seeds, and slices of the same part as positives are as "
        "good as plain views (FedSimCLR has +0.04).",
    ),
    Row(
        "FedCL",
        "algorithms",
        "accuracy 0.892 (+0.013)",
        "skin lesions, COVID-19 radiographs",
        "labels",
        (
            "patterns",
            "chests",
        ),
        "Representations are drawn to the global model's and pushed from those of other images. Use it "
        "against label skew; it costs a second forward pass.",
        remark="no difference shown. Temperature and weight are the defaults; with rounds this few "
        "representations of the global model are hardly worth being drawn to.",
    ),
)
