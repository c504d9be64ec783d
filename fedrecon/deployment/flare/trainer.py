"""A site's client of FLARE's Client API: a model received is a message, a model sent the answer."""

import os
from pathlib import Path

import numpy as np

from fedrecon.deployment.flare.parts import SITE_FOLDER
from fedrecon.deployment.parties import local_site


def main() -> None:
    """Answers until FLARE ends the job."""
    import nvflare.client as flare
    from nvflare.app_common.abstract.fl_model import FLModel

    flare.init()
    site = local_site(Path(os.environ.get(SITE_FOLDER, ".")))
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        reply = site.answer(np.asarray(received.params["message"], np.uint8).tobytes())
        flare.send(FLModel(params={"message": np.frombuffer(reply, np.uint8)}))


if __name__ == "__main__":
    main()
