"""Where the deployment is, as the environment of this command says, and what its metrics say now.

It speaks to what runs as an operator would: the front door, the ports of metrics, the store. It
changes nothing.
"""

import http.client
import os
import ssl
import time
from collections.abc import Mapping
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from services.audit.layout import Layout
from services.audit.settings import AuditSettings
from services.cli import development, probe, rundir
from services.cli.keys.options import settings_of
from services.cli.ports import LISTEN_DEFAULTS
from services.cli.settings import EdgeSettings
from services.common.settings import SettingsError, load, split_address

SERVICES = ("gateway", "ratelimit", "model", "audit")
TIMEOUT_S = 5.0


class Sample(NamedTuple):
    """One number that a service exports.

    Attributes:
        labels: its labels.
        value: the number.
    """

    labels: Mapping[str, str]
    value: float


class Scrape(NamedTuple):
    """What a service said of itself.

    Attributes:
        samples: by the name of the metric.
        asked: the middle of the question's time, in Unix seconds.
        doubt_s: how long the question took.
    """

    samples: dict[str, list[Sample]]
    asked: float
    doubt_s: float

    def first(self, name: str) -> float | None:
        """Return the first sample of a name; None when there is none."""
        found = self.samples.get(name)
        return found[0].value if found else None


class Answer(NamedTuple):
    """What the front door answered.

    Attributes:
        status: of HTTP.
        body: its text.
        date: its clock, as it wrote it; empty where it did not.
        certificate: what it served, in DER.
    """

    status: int
    body: str
    date: str
    certificate: bytes


class Surroundings:
    """What there is to look at.

    Args:
        url: the front door; empty for this machine's.
        metrics: where services serve metrics, by their name, where not as the environment says.
        log: the log's directory; None for the environment's.
    """

    def __init__(self, url: str, metrics: Mapping[str, list[str]], log: Path | None) -> None:
        """See the class."""
        self._url = url
        self._metrics = metrics
        self._log = log

    @cached_property
    def edge(self) -> EdgeSettings:
        """The settings of the front door, with nothing refused."""
        try:
            return load(EdgeSettings)
        except SettingsError:
            return EdgeSettings.model_construct(
                state_dir=Path(os.environ.get("WEAVER_STATE_DIR", ".weaver")),
                tls_dir=_path("WEAVER_TLS_DIR"),
            )

    @cached_property
    def audit(self) -> AuditSettings:
        """The settings of the audit service, with nothing refused."""
        return settings_of(None)

    @property
    def layout(self) -> Layout:
        """Where the log lies."""
        return Layout(self._log or self.audit.log_path)

    @cached_property
    def _running(self) -> Mapping[str, str]:
        """Where the `weaver up` of this state directory listens."""
        return rundir.listening(self.edge.state_dir)

    @property
    def front(self) -> tuple[str, int]:
        """Host and port of the front door."""
        if self._url:
            place = self._url.removeprefix("https://").rstrip("/")
            return split_address(place if ":" in place else f"{place}:443", "--url")
        listen = self.edge.front_listen
        if "front_listen" not in self.edge.model_fields_set:
            listen = self._running.get("WEAVER_FRONT_LISTEN", listen)
        return probe.reachable(listen, "WEAVER_FRONT_LISTEN")

    @property
    def trust(self) -> ssl.SSLContext:
        """What a client trusts: the machine's authorities and the suite's own."""
        context = ssl.create_default_context()
        ca = self.edge.tls_path / "ca.pem"
        if ca.is_file():
            context.load_verify_locations(ca)
        return context

    def ask_front(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Ask the front door.

        Raises:
            OSError: it does not answer, or is not to be trusted.
        """
        host, port = self.front
        line = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=self.trust)
        with closing(line):
            try:
                line.request("GET", path, headers=dict(headers or {}))
                reply = line.getresponse()
                served = line.sock.getpeercert(binary_form=True) if line.sock else b""
                text = reply.read().decode(errors="replace")
            except http.client.HTTPException as error:
                raise ConnectionError(str(error) or type(error).__name__) from None
            return Answer(reply.status, text, reply.getheader("date", ""), served or b"")

    def credential(self, role: str = "auditor") -> str:
        """Return a credential: WEAVER_API_KEY, or in development a fresh token for a role.

        Raises:
            OSError: there is none.
        """
        given = os.environ.get("WEAVER_API_KEY")
        if given:
            return given
        from services.cli.token import mint  # noqa: PLC0415 - most examinations do without

        key = (self.edge.state_dir / "keys" / development.JWT_KEY).read_bytes()
        return mint(key, "doctor", "default", [role], 60)

    @cached_property
    def scrapes(self) -> dict[str, Scrape | str]:
        """What each process said; a sentence where it said nothing. By service or service@place."""
        found: dict[str, Scrape | str] = {}
        for service in SERVICES:
            variable = f"WEAVER_{service.upper()}_METRICS_LISTEN"
            started = self._running.get(variable, LISTEN_DEFAULTS[variable])
            default = os.environ.get(variable, started)
            places = self._metrics.get(service) or ([default] if default else [])
            for place in places:
                name = service if len(places) == 1 else f"{service}@{place}"
                found[name] = _scrape(place, variable)
        return found

    def scrape(self, service: str) -> Scrape | None:
        """Return what the first process of a service said."""
        for name, found in self.scrapes.items():
            if name.partition("@")[0] == service and isinstance(found, Scrape):
                return found
        return None


def _scrape(place: str, variable: str) -> Scrape | str:
    began = time.time()
    try:
        host, port = probe.reachable(place, variable)
        line = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        with closing(line):
            line.request("GET", "/metrics")
            text = line.getresponse().read().decode()
    except (OSError, ValueError, SettingsError, http.client.HTTPException) as error:
        return f"{place}: {error}"
    ended = time.time()
    samples: dict[str, list[Sample]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples.setdefault(sample.name, []).append(Sample(sample.labels, sample.value))
    except ValueError:
        return f"{place}: what it says are no metrics"
    return Scrape(samples, (began + ended) / 2, ended - began)


def _path(variable: str) -> Path | None:
    text = os.environ.get(variable)
    return Path(text) if text else None
