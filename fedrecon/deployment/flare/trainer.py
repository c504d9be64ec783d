"""A site's client of FLARE's Client API: a model received is a message, a model sent the answer."""

import dataclasses
from pathlib import Path

import numpy as np

from fedrecon.deployment.flare.local import local_settings, named_function, site_folder
from fedrecon.deployment.site import LocalSite, Policy


def local_site(folder: Path) -> LocalSite:
    """The site of a FLARE folder, by its own settings."""
    local = local_settings(folder)
    values = local.get("policy", {})
    known = {field.name for field in dataclasses.fields(Policy)}
    if unknown := values.keys() - known:
        raise ValueError(f"policy: expected {', '.join(sorted(known))}, found {', '.join(sorted(unknown))}")
    if "approved" in values:
        values = {**values, "approved": tuple(values["approved"])}
    data, client = named_function(local["data"]), local["client"]
    return LocalSite(
        Path(local["folder"]),
        local["name"],
        client,
        named_function(local["problem"]),
        lambda settings: data(settings, client, local.get("data_dir", "")),
        Policy(**values),
    )


def main() -> None:
    """Answers until FLARE ends the job."""
    import nvflare.client as flare
    from nvflare.app_common.abstract.fl_model import FLModel

    flare.init()
    site = local_site(site_folder())
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        reply = site.answer(np.asarray(received.params["message"], np.uint8).tobytes())
        flare.send(FLModel(params={"message": np.frombuffer(reply, np.uint8)}))


if __name__ == "__main__":
    main()
