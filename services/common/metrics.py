"""Prometheus metrics: each service's own registry on its own port, on its own thread."""

import threading
from contextlib import AsyncExitStack

from prometheus_client import CollectorRegistry, start_http_server

from services.common.settings import SettingsError, split_address


def serve_metrics(
    registry: CollectorRegistry, address: str, variable: str, stack: AsyncExitStack
) -> int | None:
    """Serve a registry over HTTP until the stack closes, and return the port.

    Args:
        registry: what to serve.
        address: `host:port`; empty serves nothing and returns None.
        variable: the environment variable that sets the address, for error messages.
        stack: ends the server.

    Raises:
        SettingsError: the address is taken or not this machine's.
    """
    if not address:
        return None
    host, port = split_address(address, variable)
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        msg = (
            f"{variable}: cannot serve metrics on {address}: {error.strerror}. "
            f"Stop the program that uses it, or set {variable} to another address."
        )
        raise SettingsError(msg) from None

    def stop() -> None:
        # The thread looks up every half second; nobody needs to wait for that.
        threading.Thread(target=server.shutdown, daemon=True).start()
        server.server_close()

    stack.callback(stop)
    return int(server.server_port)
