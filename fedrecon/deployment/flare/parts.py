"""What FLARE runs of ours: a controller at the server, an executor at sites, and the recipe of a job.

FLARE finds them by the names in a job's configuration and asks for subclasses of its own. They are part of
the installed package: a job brings no code with it, and sites allow no other classes. Without FLARE the
module can be imported, and nothing of it be used.
"""

import importlib
import importlib.util
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from fedrecon.deployment.parties import lead
from fedrecon.deployment.server import Job

# Environment variable: the folder of a site, for the client that runs in FLARE's process.
SITE_FOLDER = "FEDRECON_SITE_FOLDER"
_FOUND = importlib.util.find_spec("nvflare") is not None


def _of_flare(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"nvflare.{module}"), name) if _FOUND else object


_ModelController: Any = _of_flare("app_common.workflows.model_controller", "ModelController")
_ClientAPIExecutor: Any = _of_flare("app_common.executors.client_api_executor", "ClientAPIExecutor")
_Recipe: Any = _of_flare("recipe.spec", "Recipe")


class RoundsController(_ModelController):
    """Runs `coordinate` at the server, with FLARE's tasks as messages.

    Args:
      job_name: of the training, the same for all FLARE jobs that continue it.
      settings: of the training, as JSON.
      sites: FLARE's names of the sites, in the order of their numbers.
      minimum: fewest sites that a round is closed with; 0 is all.
      deadline: seconds that sites have for an answer; 0 is any.
    """

    def __init__(
        self, job_name: str, settings: dict, sites: list[str], minimum: int = 0, deadline: float = 0.0
    ) -> None:
        super().__init__(persistor_id="", ignore_result_error=True, task_check_period=0.1)
        self.job_name, self.settings, self.sites = job_name, settings, sites
        self.minimum, self.deadline = minimum, deadline

    def run(self) -> None:
        """Called by FLARE."""
        job = Job(self.job_name, self.settings, len(self.sites), self.minimum)
        lead(Path(self.engine.get_workspace().get_root_dir()), job, self._ask)

    def _ask(self, kind: str, messages: dict[int, bytes]) -> dict[int, bytes]:
        """Answers of the sites that give one in time; each gets a task of its own."""
        from nvflare.app_common.abstract.fl_model import FLModel

        answers: dict[int, bytes] = {}
        lock = threading.Lock()

        def take(client):
            def callback(model):
                with lock:
                    answers[client] = np.asarray(model.params["message"], np.uint8).tobytes()

            return callback

        for client, data in messages.items():
            model = FLModel(params={"message": np.frombuffer(data, np.uint8)}, current_round=0)
            self.broadcast_model(
                model,
                targets=[self.sites[client]],
                min_responses=1,
                timeout=int(self.deadline),
                blocking=False,
                callback=take(client),
            )
        while self.get_num_standing_tasks():
            if self.abort_signal.triggered:
                raise RuntimeError(f"the job was stopped while sites were asked for {kind!r}")
            time.sleep(0.05)
        with lock:
            return dict(answers)


class SiteTrainer(_ClientAPIExecutor):
    """Runs the client of FLARE's Client API that is installed at the site; a job says nothing of it."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("trainer.py")
        super().__init__(
            execution_mode="in_process",
            task_script_path=str(script),
            params_exchange_format="raw",
            server_expected_format="raw",
        )

    def handle_event(self, event_type: str, fl_ctx: Any) -> None:
        """Called by FLARE; tells the client where the site's own settings are."""
        if SITE_FOLDER not in os.environ and fl_ctx.get_engine() is not None:
            os.environ[SITE_FOLDER] = str(fl_ctx.get_engine().get_workspace().get_root_dir())
        super().handle_event(event_type, fl_ctx)


class TrainingRecipe(_Recipe):
    """A FLARE job of a training: `RoundsController` and `SiteTrainer`, and no code.

    Args:
      name: of the training.
      settings, sites, minimum, deadline: as of `RoundsController`.
    """

    def __init__(
        self, name: str, settings: dict, sites: list[str], minimum: int = 0, deadline: float = 0.0
    ) -> None:
        from nvflare.job_config.api import FedJob

        job = FedJob(name=name, min_clients=len(sites))
        job.to_server(RoundsController(name, settings, sites, minimum, deadline))
        job.to_clients(SiteTrainer(), tasks=["*"])
        super().__init__(job)
        self.add_client_config({"default_task_fetch_interval": 0.1})
