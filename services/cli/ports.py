"""The addresses that the suite on one machine uses, and whether somebody else does."""

import errno
import socket
from collections.abc import Mapping

from services.common.settings import SettingsError, split_address

LISTEN_DEFAULTS = {
    "WEAVER_FRONT_LISTEN": "127.0.0.1:8443",
    "WEAVER_ENVOY_ADMIN_LISTEN": "127.0.0.1:9901",
    "WEAVER_ENVOY_METRICS_LISTEN": "",
    "WEAVER_GATEWAY_LISTEN": "127.0.0.1:8000",
    "WEAVER_RATELIMIT_LISTEN": "127.0.0.1:8001",
    "WEAVER_MODEL_LISTEN": "127.0.0.1:8002",
    "WEAVER_AUDIT_LISTEN": "127.0.0.1:8003",
    "WEAVER_GATEWAY_METRICS_LISTEN": "127.0.0.1:9464",
    "WEAVER_RATELIMIT_METRICS_LISTEN": "127.0.0.1:9465",
    "WEAVER_MODEL_METRICS_LISTEN": "127.0.0.1:9466",
    "WEAVER_AUDIT_METRICS_LISTEN": "127.0.0.1:9467",
}

PORTS_APART = 10
"""Between the ports where two gateways of `weaver up` serve their metrics."""


def addresses(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the addresses to listen on, by the variable that sets each."""
    chosen = {
        variable: environment.get(variable, default)
        for variable, default in LISTEN_DEFAULTS.items()
    }
    return {variable: address for variable, address in chosen.items() if address}


def of_gateway(number: int, chosen: Mapping[str, str], *, separate: bool) -> dict[str, str]:
    """Return where a further gateway serves metrics: so many ports after the first one's.

    Args:
        number: 2 for the second gateway.
        chosen: the first one's addresses.
        separate: it has no limiter and no model service with it.

    Raises:
        SettingsError: there is no such port.
    """
    moved: dict[str, str] = {}
    for service in ("GATEWAY",) if separate else ("GATEWAY", "RATELIMIT", "MODEL"):
        variable = f"WEAVER_{service}_METRICS_LISTEN"
        if variable not in chosen:
            continue
        host, _, port = chosen[variable].rpartition(":")
        if not port.isdecimal():
            split_address(chosen[variable], variable)
        moved[variable] = f"{host}:{int(port) + PORTS_APART * (number - 1)}"
    return moved


def refuse_taken(listeners: Mapping[str, str]) -> None:
    """Find out about taken ports before anything is started.

    Raises:
        SettingsError: names the address and the variable.
    """
    seen: dict[str, str] = {}
    for variable, address in listeners.items():
        if address in seen:
            msg = f"{variable} and {seen[address]} are both {address}: set one to another port."
            raise SettingsError(msg)
        seen[address] = variable
        _refuse_taken(variable, address)


def is_listening(host: str, port: int) -> bool:
    """Return whether something takes connections there."""
    try:
        with socket.create_connection((host, port), timeout=0.5):
            return True
    except OSError:
        return False


def _refuse_taken(variable: str, address: str) -> None:
    host, port = split_address(address, variable)
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        msg = f"{variable}: cannot listen on {address}: {error.strerror}."
        raise SettingsError(msg) from None
    for family, kind, protocol, _, place in infos:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(place)
            except OSError as error:
                raise SettingsError(_sentence(variable, address, port, error)) from None


def _sentence(variable: str, address: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        why = f"port {port} is already in use (address {address})"
    else:
        why = f"cannot listen on {address}: {error.strerror}"
    return f"{variable}: {why}. Stop what uses it, or set {variable} to another address."
