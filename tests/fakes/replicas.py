"""Several processes of each service, as a cluster has them, replaced one by one behind Envoy.

A replica has an address of its own on this machine's loopback, as a pod has one, and the port of
its service. It is among the addresses of its service's name while it is ready; once it is told to
end it is not. Each log has one address for good, as by its Service in the cluster, and a gateway of
its own.
"""

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from services.cli import edge, programs
from services.cli.ports import is_listening
from services.cli.settings import EdgeSettings
from services.common import certificates
from services.common.probe import probe
from services.common.settings import CommonSettings
from tests.fakes.names import Names
from tests.fakes.valkey import Valkey

KEY = "dev-key-of-somebody-who-calls"
WITHIN_S = 90.0
NAMED = ("ratelimit", "model", "gateway")
SERVICES = ("audit", *NAMED)


class Replicas:
    """A deployment with two replicas of each service.

    Args:
        place: for state, logs and sockets; a short path.
        late_s: how late the name server tells of changes.
        environment: for all services.
    """

    def __init__(self, place: Path, late_s: float, environment: Mapping[str, str]) -> None:
        """See the class."""
        self._place, self._late_s = place, late_s
        self._names = Names(late_s)
        self._valkey = Valkey(place)
        ports = quiet_ports()
        self._calls = {name: next(ports) for name in SERVICES}
        self._health = {name: next(ports) for name in SERVICES}
        self._edge, self._front, self._admin = next(ports), next(ports), next(ports)
        self._common = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "WEAVER_STATE_DIR": str(place / "state"),
            "WEAVER_MODEL_PROVIDER": "stub",
            "WEAVER_MODEL_NAME": "stub-model",
            "WEAVER_AUTH_MODE": "api_key",
            "WEAVER_ALLOWED_API_KEYS": KEY,
            "WEAVER_RATELIMIT_RPS": "100000",
            "WEAVER_RATELIMIT_BURST": "100000",
            "REDIS_UNIX_SOCKET": str(self._valkey.socket),
            "WEAVER_RATELIMIT_ADDRESS": self._by_name("ratelimit"),
            "WEAVER_MODEL_ADDRESS": self._by_name("model"),
            **environment,
        }
        self._running: dict[tuple[str, int], subprocess.Popen[bytes]] = {}
        self._envoy: subprocess.Popen[bytes] | None = None

    @property
    def ca(self) -> Path:
        """What a client must trust."""
        return self._place / "state" / "tls" / "ca.pem"

    @property
    def url(self) -> str:
        """The front door."""
        return f"https://127.0.0.1:{self._front}"

    def log(self, number: int) -> Path:
        """Return the directory of a log."""
        return self._place / f"log-{number}"

    def weaver(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of `weaver` beside the services."""
        return subprocess.run(
            [sys.executable, "-m", "services.cli", *arguments],
            env=self._common,
            capture_output=True,
            text=True,
            check=False,
            timeout=WITHIN_S,
        )

    def replace(self, service: str, number: int) -> None:
        """End a replica, start it anew, and wait until all know of it, as a roll-out does."""
        self._end(service, number)
        self._start(service, number)
        # In the cluster, `minReadySeconds`. Without it calls fail here: the next one is gone before
        # this one is found.
        time.sleep(self._late_s if service in NAMED else 0)

    def _start(self, service: str, number: int) -> None:
        host = _host(number)
        prefix = f"WEAVER_{service.upper()}"
        health = f"{host}:{self._health[service]}"
        own = {
            f"{prefix}_LISTEN": f"{host}:{self._calls[service]}",
            f"{prefix}_METRICS_LISTEN": "",
            f"{prefix}_HEALTH_LISTEN": health,
        }
        if service == "audit":
            own["WEAVER_AUDIT_REPLICA"] = f"audit-{number}"
            own["WEAVER_AUDIT_PATH"] = str(self.log(number))
        else:
            own["WEAVER_AUDIT_ADDRESS"] = f"{host}:{self._calls['audit']}"
        if service == "gateway":
            own["WEAVER_GATEWAY_INSTANCE"] = f"gateway-{number}"
            own["WEAVER_GATEWAY_EDGE_LISTEN"] = f"{host}:{self._edge}"
        with (self._place / f"{service}-{number}.out").open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"services.{service}"],
                env={**self._common, **own},
                stdout=out,
                stderr=out,
            )
        self._running[service, number] = process
        end = time.monotonic() + WITHIN_S
        while problem := probe(health, "ready"):
            assert process.poll() is None, self._said(f"{service}-{number}")
            assert time.monotonic() < end, problem
            time.sleep(0.1)
        if service in NAMED:
            self._names.add(service, host)

    def _end(self, service: str, number: int) -> None:
        if service in NAMED:
            self._names.remove(service, _host(number))
        process = self._running.pop((service, number))
        process.terminate()
        assert process.wait(WITHIN_S) == 0, self._said(f"{service}-{number}")

    def _by_name(self, service: str) -> str:
        return f"dns://127.0.0.1:{self._names.port}/{service}.test:{self._calls[service]}"

    def _start_envoy(self) -> None:
        settings = EdgeSettings.for_target(
            "container",
            state_dir=self._place / "state",
            tls_dir=None,
            front_listen=f"127.0.0.1:{self._front}",
            admin_listen=f"127.0.0.1:{self._admin}",
            metrics_listen="",
            gateway_address=f"gateway.test:{self._edge}",
        )
        directory = self._place / "envoy"
        main = edge.write(edge.render(settings, "container", directory), directory)
        configuration: dict[str, Any] = yaml.safe_load(main.read_text())
        for cluster in configuration["static_resources"]["clusters"]:
            if cluster["name"] == "gateway":
                found = cluster["cluster_type"]["typed_config"]["typed_dns_resolver_config"]
                place = {"address": "127.0.0.1", "port_value": self._names.port}
                found["typed_config"]["resolvers"] = [{"socket_address": place}]
        main.write_text(yaml.safe_dump(configuration))
        command = [str(programs.envoy()), "-c", str(main), "--disable-hot-restart"]
        with (self._place / "envoy.out").open("wb") as out:
            self._envoy = subprocess.Popen(
                [*command, "--concurrency", "1", "-l", "warning"], stdout=out, stderr=out
            )
        end = time.monotonic() + WITHIN_S
        while not is_listening("127.0.0.1", self._front):
            assert self._envoy.poll() is None, self._said("envoy")
            assert time.monotonic() < end, "Envoy does not listen"
            time.sleep(0.1)

    def _said(self, name: str) -> str:
        return (self._place / f"{name}.out").read_text(errors="replace")[-3000:]

    def __enter__(self) -> Self:
        """Start everything."""
        certificates.ensure(CommonSettings(state_dir=self._place / "state"))
        self._names.__enter__()
        self._valkey.start()
        try:
            for service in SERVICES:
                for number in range(2):
                    self._start(service, number)
            self._start_envoy()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End everything."""
        for process in (*self._running.values(), self._envoy):
            if process is not None:
                process.kill()
                process.wait()
        self._valkey.kill()
        self._names.__exit__(None, None, None)


def quiet_ports() -> Iterator[int]:
    """Yield free ports below those that outgoing connections take for themselves."""
    given: set[int] = set()
    while True:
        port = random.randrange(15_000, 32_000)  # noqa: S311 - no secret
        with socket.socket() as asked:
            if port not in given and asked.connect_ex(("127.0.0.1", port)):
                given.add(port)
                yield port


def _host(number: int) -> str:
    return f"127.0.0.{number + 2}"
