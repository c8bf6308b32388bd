"""What the children of `weaver up` run: Envoy, Valkey and, when separate, each service."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.cli import edge, ports, programs
from services.cli.ports import is_listening
from services.cli.rundir import RunDirectory
from services.cli.settings import EdgeSettings
from services.cli.supervisor import Program

SERVICES = ("audit", "ratelimit", "model", "gateway")
"""In the order of their start; they end the other way round."""

RELOADING = ("audit", "model")
"""Those that read files again on SIGHUP; it ends the others."""

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
CACHE_BYTES = "268435456"
"""What the cache may hold where nobody says."""

_TRUE = {"1", "on", "t", "true", "y", "yes"}
_HARMLESS = ("PATH", "HOME", "TZ", "LANG")
_AUDIT_ALONE = (
    "WEAVER_TELEMETRY_SIGNING_KEY",
    "WEAVER_AUDIT_ED25519_KEY",
    "WEAVER_AUDIT_STORE_KEY",
)
"""How the variables begin that hold the secrets of the audit service."""

_FIRST_ALONE = (
    "WEAVER_GATEWAY_LISTEN",
    "WEAVER_GATEWAY_HEALTH_LISTEN",
    "WEAVER_RATELIMIT_HEALTH_LISTEN",
    "WEAVER_MODEL_HEALTH_LISTEN",
)
"""Addresses that one process alone can have."""

_INSTANCE = "WEAVER_GATEWAY_INSTANCE"


def service(name: str, environment: Mapping[str, str]) -> Program:
    """Return how to run a service as a process of its own; no other learns audit's secrets."""
    if name != "audit":
        environment = _without_secrets(environment)
    return Program(name, [sys.executable, "-P", "-m", f"services.{name}"], environment)


def gateway(
    number: int, environment: Mapping[str, str], settings: EdgeSettings, *, separate: bool
) -> Program:
    """Return how to run a further gateway, the second or a later one.

    It takes Envoy's calls alone, and has its limiter and model service with it unless they are
    separate.
    """
    module = "services.gateway" if separate else "services.cli.worker"
    own = {
        **dict.fromkeys(_FIRST_ALONE, ""),
        **ports.of_gateway(number, ports.addresses(environment), separate=separate),
        "WEAVER_GATEWAY_EDGE_LISTEN": settings.edge_listens[number - 1],
    }
    if environment.get(_INSTANCE):
        own[_INSTANCE] = f"{environment[_INSTANCE]}-{number}"
    command = [sys.executable, "-P", "-m", module]
    return Program(gateway_name(number), command, _without_secrets({**environment, **own}))


def gateway_name(number: int) -> str:
    """Return what operators call a gateway: `gateway`, `gateway-2` and so on."""
    return "gateway" if number == 1 else f"gateway-{number}"


def envoy(run: RunDirectory, settings: EdgeSettings) -> Program:
    """Write Envoy's configuration and return how to run it.

    Raises:
        MissingToolError: Envoy is not installed.
        SettingsError: an address is malformed.
    """
    directory = run.path / "envoy"
    main = edge.write(edge.render(settings, "local", directory), directory)
    command = [str(programs.envoy()), "-c", str(main), "--disable-hot-restart"]
    command += ["--concurrency", str(settings.concurrency), "-l", "warning"]
    command += ["--component-log-level", "main:error"]
    return Program("envoy", command, _bare())


def needs_valkey(environment: Mapping[str, str]) -> bool:
    """Return whether nobody provides the limits' store."""
    if "REDIS_UNIX_SOCKET" in environment:
        return False
    host = environment.get("REDIS_HOST")
    if host is None:
        return True
    port = environment.get("REDIS_PORT", "6379")
    return host in _LOOPBACK and port.isdecimal() and not is_listening(host, int(port))


def valkey(run: RunDirectory, password: str) -> tuple[Program, Path]:
    """Write Valkey's configuration and return how to run it, and its socket.

    What it holds survives: the limits of the last second at most are lost with a power failure.

    Raises:
        MissingToolError: Valkey is not installed.
    """
    directory = run.state.absolute() / "valkey"
    directory.mkdir(mode=0o700, exist_ok=True)
    lines = [
        f"dir {_quoted(str(directory))}",
        "appendonly yes",
        "appendfsync everysec",
        "maxmemory 256mb",
        "maxmemory-policy noeviction",
    ]
    return _valkey("valkey", run, password, lines)


def needs_cache(environment: Mapping[str, str]) -> bool:
    """Return whether answers are to be cached and nobody provides a store for them."""
    enabled = environment.get("WEAVER_MODEL_CACHE_ENABLED", "").lower()
    return enabled in _TRUE and not environment.get("WEAVER_MODEL_CACHE_ADDRESS")


def cache(run: RunDirectory, password: str, max_bytes: str) -> tuple[Program, Path]:
    """Write the configuration of the cache's store and return how to run it, and its socket.

    It keeps nothing on disk, and forgets what was used least recently.

    Raises:
        MissingToolError: Valkey is not installed.
    """
    # What is no number is refused by the service, which knows the variable's name.
    most = max_bytes if max_bytes.isdecimal() else CACHE_BYTES
    lines = [f"maxmemory {most}", "maxmemory-policy allkeys-lru"]
    return _valkey("cache", run, password, lines)


def _valkey(
    name: str, run: RunDirectory, password: str, lines: Sequence[str]
) -> tuple[Program, Path]:
    socket, log = run.sockets / f"{name}.sock", run.path / f"{name}.log"
    lines = [
        "port 0",
        f"unixsocket {_quoted(str(socket))}",
        "unixsocketperm 700",
        'save ""',
        *lines,
        "loglevel warning",
        f"logfile {_quoted(str(log))}",
        *([f"requirepass {_quoted(password)}"] if password else []),
    ]
    configuration = run.path / f"{name}.conf"
    configuration.touch(mode=0o600)
    configuration.write_text("\n".join(lines) + "\n")
    return Program(name, [str(programs.valkey()), str(configuration)], _bare(), log), socket


def _without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        variable: value
        for variable, value in environment.items()
        if not variable.startswith(_AUDIT_ALONE)
    }


def _bare() -> dict[str, str]:
    """Return an environment without our settings: other people's programs learn no secret."""
    return {name: os.environ[name] for name in _HARMLESS if name in os.environ}


def _quoted(value: str) -> str:
    escaped = "".join(
        character if " " <= character <= "~" and character not in '"\\' else f"\\x{byte:02x}"
        for character, byte in zip(value.encode().decode("latin-1"), value.encode(), strict=True)
    )
    return f'"{escaped}"'
