"""The tasks of Flower's Runtime API, run in this process.

Flower's own SuperExec starts a process for every message, which installs and runs the code that a run brings.
Here one process stays, and runs the apps of the installed package, whatever a run has with it. The modules of
Flower that this takes are no public interface of it; the extra allows one minor version.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fedrecon.deployment.flower import apps

# Seconds between two looks for tasks.
_PERIOD = 0.2
_ACQUIRE = frozenset({"/flwr.proto.Runtime/AcquireTask"})


class Runtime(NamedTuple):
    """A Runtime API.

    Attributes:
      address: host:port.
      secret: that of who may take tasks.
      authority: certificate that it is signed by, PEM; None without TLS, on this machine.
    """

    address: str
    secret: bytes
    authority: bytes | None

    def client(self, interceptor: Any) -> Any:
        """A client, to be closed."""
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
        from flwr.supercore.retry import make_simple_http_retry_invoker
        from flwr.supercore.runtime import RuntimeHttpClient

        return RuntimeHttpClient.from_server_address(
            server_address=self.address,
            insecure=self.authority is None,
            root_certificates=self.authority,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), interceptor],
            retry_invoker=make_simple_http_retry_invoker(),
        )


def serve(runtime: Runtime, kind: str, work: Callable[[Runtime, str, Any], None]) -> None:
    """Does tasks of one kind, one after the other, without end.

    Args:
      runtime: whose tasks.
      kind: "flwr-clientapp" or "flwr-serverapp".
      work: ``work(runtime, token, client)`` does one; what goes wrong with it is printed.
    """
    import httpx
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, SuperExecAuthHttpInterceptor

    request = AcquireTaskRequest(supported_task_types=[kind])
    signed = SuperExecAuthHttpInterceptor(master_secret=runtime.secret, protected_methods=_ACQUIRE)
    with contextlib.closing(runtime.client(signed)) as acquiring:
        while True:
            try:
                found = acquiring.AcquireTask(request)
            except httpx.HTTPError as error:
                print(f"no tasks from {runtime.address}: {error}", flush=True)
                time.sleep(1)
                continue
            if not (found.HasField("task") and found.token):
                time.sleep(_PERIOD)
                continue
            own = RuntimeTokenHttpInterceptor(found.token)
            try:
                with contextlib.closing(runtime.client(own)) as client, _heartbeats(client):
                    work(runtime, found.token, client)
            # A run may be stopped at any moment, and the next one wants to be served.
            except Exception as error:
                print(f"task {found.task.task_id}: {' '.join(str(error).split())[:500]}", flush=True)


def site_task(runtime: Runtime, token: str, client: Any) -> None:
    """A message for a site."""
    from flwr.app import Error, Message
    from flwr.common.constant import ErrorCode, SubStatus
    from flwr.common.serde import context_to_proto
    from flwr.proto.runtime_pb2 import PushTaskOutputRequest
    from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message

    del runtime, token
    message, context, _, _ = pull_task_input(client)
    told, failed = SubStatus.COMPLETED, ""
    try:
        reply = apps.client_app()(message, context)
    # The server must hear that there is no answer.
    except Exception as error:
        failed = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        print(failed, flush=True)
        told = SubStatus.FAILED
        reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, failed), reply_to=message)
    push_message(client, reply, context)
    output = PushTaskOutputRequest(context=context_to_proto(context), sub_status=told, details=failed)
    client.PushTaskOutput(output)


def server_task(runtime: Runtime, token: str, client: Any) -> None:
    """A run at the server."""
    import httpx
    from flwr.common.constant import SubStatus
    from flwr.common.serde import context_from_proto, run_from_proto
    from flwr.proto.runtime_pb2 import PullTaskInputRequest, PushTaskOutputRequest
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.superlink.grid import HttpGrid

    given = client.PullTaskInput(PullTaskInputRequest())
    # New messages take their sender from it.
    TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, given.run.run_id
    TaskIdentity.node_id = given.context.node_id
    context, run = context_from_proto(given.context), run_from_proto(given.run)
    context.run_config = dict(run.override_config)
    grid = HttpGrid(runtime.address, root_certificates=runtime.authority, token=token)
    grid.set_run(run)
    told, failed = SubStatus.FAILED, "stopped"
    try:
        apps.server_app()(grid, context)
        told, failed = SubStatus.COMPLETED, ""
    except Exception as error:
        failed = " ".join(str(error).split())[:500]
        raise
    finally:
        grid.close()
        with contextlib.suppress(httpx.HTTPError):
            client.PushTaskOutput(PushTaskOutputRequest(sub_status=told, details=failed))


@contextlib.contextmanager
def _heartbeats(client: Any) -> Iterator[None]:
    """Tells Flower for the length of a block that its task is being done."""
    from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest
    from flwr.supercore.heartbeat import HeartbeatSender

    def beat() -> bool:
        # Whoever is told that the run has ended finishes the message first: its state must be whole.
        with contextlib.suppress(Exception):
            client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        return True

    sender = HeartbeatSender(beat)
    sender.start()
    try:
        yield
    finally:
        sender.stop()
