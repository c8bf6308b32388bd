"""Asks a service how it is, for a container's health check: `python -m services.common.probe`.

    python -m services.common.probe 127.0.0.1:9474 [live|ready|<dependency>]

Without a name it asks whether the service can do its work. The exit status is 0 for yes, 1 for no
or no answer, 2 for a wrong call; what is wrong is said in one line.
"""

import sys
from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 2.0
_USAGE = "usage: python -m services.common.probe HOST:PORT [NAME]"


def probe(address: str, name: str = "", *, timeout_s: float = TIMEOUT_S) -> str:
    """Ask for the health of one name; return what is wrong, and nothing when it is well."""
    # No proxy of the environment stands between a probe and its own machine.
    options = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
    asked = health_pb2.HealthCheckRequest(service=name)
    try:
        with grpc.insecure_channel(address, options) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            status = stub.Check(asked, timeout=timeout_s).status
    except grpc.RpcError as error:
        code = error.code() if isinstance(error, grpc.Call) else error
        return f"{address}: no answer: {code}"
    if status == health_pb2.HealthCheckResponse.SERVING:
        return ""
    return f"{address}: {name or 'the service'} is {_name(status)}"


def main(arguments: Sequence[str]) -> int:
    """Probe what the arguments name, and return the exit status."""
    if not arguments or len(arguments) > 2 or arguments[0].startswith("-"):  # noqa: PLR2004 - the usage
        sys.stderr.write(f"{_USAGE}\n")
        return 2
    problem = probe(*arguments)
    if problem:
        sys.stderr.write(f"{problem}\n")
    return 1 if problem else 0


def _name(status: int) -> str:
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
