"""Rows of the review's chapter on applications that diagnose from images."""

from experiments.pipeline.survey_rows import Row

DIAGNOSES = (
    Row(
        "Roth",
        "applications",
        "kappa 0.680 (+0.040)",
        "mammograms of seven hospitals, four classes of density",
        "labels, scanners, sizes",
        ("densities",),
        "Federated averaging by local iterations, after which every site also has the best of its own models "
        "at hand. Use it where sites see other patients than their colleagues; where a site tests on "
        "patients like those it trained with, its best local model is what it should compare with.",
        besides="agreement",
    ),
    Row(
        "Wei",
        "applications",
        "no figure",
        "radiographs of children with pneumonia, by pathogen",
        "labels",
        ("pathogens",),
        "Classes weigh alike in the loss, by their numbers at all sites. Use it where a class that matters "
        "is rare; it changes what is said at a threshold more than how images are ranked.",
        settings={"algorithm_options": (("prior", "global"),)},
    ),
    Row(
        "Banerjee",
        "applications",
        "accuracy 0.983 (+0.025)",
        "radiographs of children of one hospital",
        "few labels",
        ("few",),
        "Transfer learning: clients descend with momentum from a pretrained network with a new head. Here "
        "the network is pretrained without labels on the clients' own images, not on photographs. Use it "
        "where labels are few and related images are not.",
        settings={"learning_rate": 0.01, "optimizer": "sgd", "new_head": True},
        start="masked",
    ),
    Row(
        "Priya",
        "applications",
        "accuracy 0.851 (+0.097)",
        "ChestX-ray14, fourteen findings",
        "rare findings",
        ("findings",),
        "Positives and negatives of every finding weigh alike in the loss. Use it where findings are rare "
        "and have to be recalled at a fixed threshold; areas under the curve hardly change.",
        settings={"algorithm_options": (("prior", "global"),)},
    ),
    Row(
        "FedVSS",
        "applications",
        "accuracy 0.766 (+0.041)",
        "MedMNIST, Camelyon17",
        "acquisition",
        ("detectors",),
        "Clients also train on two virtual samples of every image: where their model is least smooth, and "
        "where the received one is surer. Use it against drift by acquisition if about five times the "
        "computation of a step is affordable; nothing more is sent. Samples are training images that are "
        "moved a little: they must not leave a site either.",
        besides="virtual",
    ),
    Row(
        "Baid",
        "applications",
        "no figure",
        "tiles of slides of cancers of eight organs",
        "stains, frequencies",
        ("tiles",),
        "Plain federated averaging of a classifier of tiles, clients being organs. Stains are normalized by "
        "slide, and all tiles of a slide stay together. It is FedAvg; the row shows that the pipeline works.",
    ),
)
