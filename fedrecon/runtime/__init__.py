"""Running an experiment: devices, working directory, run log, checkpoints, resuming and progress."""

from fedrecon.runtime.checkpoint import Checkpointer
from fedrecon.runtime.devices import (
    available_processors,
    compiled,
    describe_environment,
    keep_memory,
    peak_memory,
    release_memory,
    set_cpu_devices,
)
from fedrecon.runtime.distributed import (
    DistributedError,
    agreed,
    host_copy,
    is_lead,
    open_workdir,
    start,
)
from fedrecon.runtime.help import spelled
from fedrecon.runtime.log import RunLog, decode_numbers, encode_numbers, read_log
from fedrecon.runtime.memory import (
    MemoryEstimate,
    available_memory,
    memory_estimate,
    readable_bytes,
)
from fedrecon.runtime.program import (
    check_values,
    end_interrupted,
    end_with,
    ending,
    parse_flags,
    program_name,
    run_program,
    show_help,
    user_message,
)
from fedrecon.runtime.progress import Progress
from fedrecon.runtime.training import rounds_done, train
from fedrecon.runtime.watchdog import PeerError, Watchdog, leave
from fedrecon.runtime.workdir import Workdir, WorkdirError

__all__ = [
    "Checkpointer",
    "DistributedError",
    "MemoryEstimate",
    "PeerError",
    "Progress",
    "RunLog",
    "Watchdog",
    "Workdir",
    "WorkdirError",
    "agreed",
    "available_memory",
    "available_processors",
    "check_values",
    "compiled",
    "decode_numbers",
    "describe_environment",
    "encode_numbers",
    "end_interrupted",
    "end_with",
    "ending",
    "host_copy",
    "is_lead",
    "keep_memory",
    "leave",
    "memory_estimate",
    "open_workdir",
    "parse_flags",
    "peak_memory",
    "program_name",
    "read_log",
    "readable_bytes",
    "release_memory",
    "rounds_done",
    "run_program",
    "set_cpu_devices",
    "show_help",
    "spelled",
    "start",
    "train",
    "user_message",
]
