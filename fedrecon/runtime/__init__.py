"""Running an experiment: devices, working directory, run log, checkpoints, resuming and progress."""

from fedrecon.runtime.checkpoint import Checkpointer
from fedrecon.runtime.devices import describe_environment, set_cpu_devices
from fedrecon.runtime.log import RunLog, read_log
from fedrecon.runtime.progress import Progress
from fedrecon.runtime.training import train
from fedrecon.runtime.workdir import Workdir, WorkdirError

__all__ = [
    "Checkpointer",
    "Progress",
    "RunLog",
    "Workdir",
    "WorkdirError",
    "describe_environment",
    "read_log",
    "set_cpu_devices",
    "train",
]
