"""The reconstruction network of a federated training, with the bounds of its signs."""

from experiments.pipeline.examples import signs_of_clients
from experiments.pipeline.federated_settings import TrainSettings
from experiments.pipeline.folders import data_kind
from fedrecon import Variables
from fedrecon.data import ClientData
from fedrecon.learned import Architecture, CheckedNetwork, calibrate, make_images, make_signs
from fedrecon.tasks import mri_measure


def checked_network(settings: TrainSettings, released: Variables, data: ClientData) -> CheckedNetwork:
    """The released network; every site of ``data`` tells the largest signs of its own examples.

    Args:
      settings: of the training.
      released: its model.
      data: measurements that it was not trained on, of the validation where there is one.
    """
    architecture = Architecture(
        "varnet", settings.cascades, settings.channels, settings.pools, norm=settings.norm
    )
    images_by, signs_by = make_images(architecture.build(), mri_measure), make_signs(mri_measure)
    _, signs = signs_of_clients(images_by, signs_by, [released] * data.clients, data)
    kind = data_kind(settings)
    origin = (
        f"varnet trained by {settings.federation.algorithm} on the {kind} MRI of {', '.join(data.names)} "
        f"(seed {settings.seed})"
    )
    return CheckedNetwork(architecture, released, calibrate(signs), origin)
