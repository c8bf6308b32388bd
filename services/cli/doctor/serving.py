"""What serves: the front door, the services behind it, their versions, where telemetry goes."""

import json
import socket
from collections.abc import Iterator
from typing import NamedTuple

from services.cli.doctor.finding import Finding
from services.cli.doctor.surroundings import TIMEOUT_S, Answer, Scrape, Surroundings
from services.common.otlp import endpoint

_OK = 200
_VERSIONS = ("weaver_build_info", "weaver_info")


def front_door(around: Surroundings) -> Iterator[Finding]:
    """Ask the front door how everything is, and what is below its parts."""
    host, port = around.front
    try:
        answer = around.ask_front("/health")
        report = _report(answer)
        within = _within(around)
    except OSError as error:
        what = f"the front door {host}:{port} does not answer: {error}"
        act = "look at Envoy: does it run, and is its certificate valid?"
        yield Finding("front door", "bad", what, act, "alerts/ServiceDown.md")
        return
    if report is None:
        what = f"the front door {host}:{port} answers, and not with a report ({answer.status})"
        yield Finding("front door", "bad", what, "is a gateway up?", "alerts/ServiceDown.md")
        return
    good = answer.status == _OK and report.status == "ok"
    what = f"the front door {host}:{port} says {report.status}"
    act = "" if good else "the lines below say what is down"
    yield Finding("front door", "good" if good else "bad", what, act, "" if good else "health.md")
    for name, state in sorted((within or report).parts.items()):
        if state != "ok":
            act = "its line in the page says what to do"
            yield Finding("front door", "bad", f"{name} is {state}", act, "health.md")
    if not good and within is None and not report.is_whole:
        what = "what is down below the parts is told only to who may read administration"
        act = "set WEAVER_API_KEY to a key or token of one, for /v1/health"
        yield Finding("front door", "unknown", what, act, "health.md")


class _Report(NamedTuple):
    """What a gateway says of the suite.

    Attributes:
        status: of everything.
        parts: the state of each part.
        is_whole: whether what is below the parts is among them.
    """

    status: str
    parts: dict[str, str]
    is_whole: bool


def _report(answer: Answer) -> _Report | None:
    try:
        said = json.loads(answer.body)
        return _Report(str(said["status"]), dict(said["dependencies"]), "policies" in said)
    except (ValueError, KeyError, TypeError):
        return None


def _within(around: Surroundings) -> _Report | None:
    """Return the whole report, for who may read it; None for others.

    Raises:
        OSError: the front door does not answer.
    """
    try:
        credential = around.credential("admin")
    except OSError:
        return None
    found = around.ask_front("/v1/health", {"authorization": f"Bearer {credential}"})
    return _report(found)


def services(around: Surroundings) -> Iterator[Finding]:
    """Say which services tell of themselves, and whether all are of one version."""
    versions: dict[str, set[str]] = {}
    for name, found in around.scrapes.items():
        if not isinstance(found, Scrape):
            what = f"{name} does not tell of itself: {found}"
            act = "start it, or say where its metrics are: --metrics SERVICE=HOST:PORT"
            yield Finding("services", "unknown", what, act, "alerts/ServiceDown.md")
            continue
        for metric in _VERSIONS:
            for sample in found.samples.get(metric, []):
                versions.setdefault(sample.labels.get("version", "unknown"), set()).add(name)
    if len(versions) > 1:
        said = "; ".join(
            f"{version}: {', '.join(sorted(who))}" for version, who in versions.items()
        )
        what = f"not all services are of one version ({said})"
        act = "finish the roll-out, or roll back"
        yield Finding("services", "warning", what, act, "deploy.md")
    for version, who in versions.items():
        if len(versions) == 1:
            yield Finding("services", "good", f"{', '.join(sorted(who))} are of version {version}")


def telemetry(around: Surroundings) -> Iterator[Finding]:
    """Say whether the collector can be reached, where one is used.

    Raises:
        SettingsError: the services would not start with its address.
    """
    if not around.edge.telemetry_enabled:
        yield Finding("telemetry", "good", "no traces are sent (WEAVER_TELEMETRY_ENABLED)")
        return
    collector = endpoint(around.edge.telemetry_endpoint)
    host, port = collector.host, collector.port
    try:
        socket.create_connection((host, port), timeout=TIMEOUT_S).close()
    except OSError as error:
        what = f"the collector {host}:{port} cannot be reached: {error.strerror or error}"
        act = "requests do not depend on it; traces of this time are lost beyond the queues"
        yield Finding("telemetry", "warning", what, act, "alerts/CollectorDown.md")
        return
    yield Finding("telemetry", "good", f"the collector {host}:{port} can be reached")
