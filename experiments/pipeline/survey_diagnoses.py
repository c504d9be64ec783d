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
        remark="no difference in accuracy, less agreement: kappa falls, with quadratic weights by 0.17 ± "
        "0.09. The best local model knows the densities that its site sees most and is far off at the "
        "others, which kappa counts; the publication's gain is on patients of other sites.",
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
        remark="nobody learns much: pooled data have an AUC of 0.61 ± 0.14. Sites have 16 to 36 radiographs "
        "to train with and 25 to test with together, too few for this network from random weights; "
        "the row shows that weights by class run, not what they are worth.",
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
        remark="worse. Twenty labels, two to four a client, give FedAvg with Adam an AUC of 0.94 from random "
        "weights; descent with momentum at the publication's small rate does not come as far in ten "
        "rounds, and its network was pretrained on the same radiographs, not on photographs.",
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
        remark="nobody learns much, as with Wei, whose radiographs these are: pooled data have an AUC of "
        "0.61 ± 0.17. Areas under the curve, which the row is scored by, are also what weights in the "
        "loss change least.",
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
        remark="no difference, at four times the seconds. All virtual samples are nearer to the image that "
        "they were made of than to any other, as they are that image, moved: they are no anonymous "
        "data.",
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
        remark="equal to FedAvg, as it has to be. Sites gain from each other (each alone has 0.65), and "
        "pooled data are better still: stains differ more than ten rounds of averages even out.",
    ),
)
