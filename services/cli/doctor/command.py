"""`weaver doctor`: looks at a running deployment, and says what to do.

Exit codes: 0 all is good (warnings too), 1 something is bad, 2 nothing is known to be bad, and
something could not be looked at.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.cli.doctor import (
    certificates,
    checklist,
    clocks,
    log,
    serving,
    signing,
    store,
    upkeep,
)
from services.cli.doctor.finding import Finding, State
from services.cli.doctor.surroundings import SERVICES, Surroundings
from services.common.settings import SettingsError

BAD, UNKNOWN, USAGE = 1, 2, 2

_COLOURS = {
    "good": "green",
    "note": "cyan",
    "warning": "yellow",
    "bad": "bold red",
    "unknown": "magenta",
}

app = typer.Typer()

Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metrics",
        metavar="SERVICE=HOST:PORT",
        help="Where a service serves its metrics; may be repeated. Default: as the settings say.",
    ),
]
Production = Annotated[
    bool, typer.Option("--production", help="Answer the checklist for production, too.")
]
Only = Annotated[list[str] | None, typer.Option("--only", help="Only these examinations.")]


@app.command("doctor")
def doctor_command(  # noqa: PLR0913, PLR0917 - each is an option
    production: Production = False,  # noqa: FBT002 - a flag
    url: Annotated[str, typer.Option(help="The front door; default: this machine's.")] = "",
    metrics: Metrics = None,
    log_directory: Annotated[
        Path | None, typer.Option("--log", help="The audit log; default: as the settings say.")
    ] = None,
    prometheus: Annotated[
        str, typer.Option(envvar="WEAVER_DOCTOR_PROMETHEUS", help="http://… of a Prometheus.")
    ] = "",
    only: Only = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON for machines.")] = False,  # noqa: FBT002
) -> None:
    """Look at a running deployment and say what to do.

    It reads certificates, clocks, keys, stores, the log, versions, disks, settings and backups with
    the environment of the services, and changes nothing. It exits with 1 when something is bad, and
    with 2 when nothing is known to be bad but something could not be looked at.
    """
    around = Surroundings(url, _places(metrics or []), log_directory)
    examinations: dict[str, Callable[[], Iterable[Finding]]] = {
        "front door": lambda: serving.front_door(around),
        "services": lambda: serving.services(around),
        "certificates": lambda: certificates.examine(around),
        "clocks": lambda: clocks.examine(around),
        "keys": lambda: signing.examine(around),
        "store": store.examine,
        "log": lambda: [log.verification(around)],
        "disk": lambda: [log.room(around)],
        "backups": lambda: upkeep.copies(around, production=production),
        "telemetry": lambda: serving.telemetry(around),
        "settings": lambda: upkeep.settings(production=production),
    }
    unknown = [name for name in only or [] if name not in examinations]
    if unknown:
        _usage(f"--only: {unknown[0]!r} is none of {', '.join(examinations)}")
    found = list(_examined({n: e for n, e in examinations.items() if not only or n in only}))
    answers = list(checklist.examine(around, prometheus)) if production and not only else []
    states = {finding.state for finding in (*found, *answers)}
    if as_json:
        document = {
            "good": not states & {"bad", "unknown"},
            "findings": [asdict(finding) for finding in found],
            **({"checklist": [asdict(answer) for answer in answers]} if answers else {}),
        }
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        _print(found, "examination")
        if answers:
            sys.stdout.write("\n")
            _print(answers, "before production")
        sys.stdout.write(f"\n{_verdict(states)}\n")
    raise typer.Exit(BAD if "bad" in states else UNKNOWN if "unknown" in states else 0)


def _examined(examinations: dict[str, Callable[[], Iterable[Finding]]]) -> Iterator[Finding]:
    for name, examine in examinations.items():
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[Klooking at: {name}")
            sys.stderr.flush()
        try:
            yield from examine()
        except SettingsError as error:
            yield Finding(name, "bad", str(error), "mend the variable", "configuration.md")
        except OSError as error:
            yield Finding(name, "unknown", f"{error.filename or name}: {error.strerror or error}")
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")


def _print(found: list[Finding], title: str) -> None:
    terminal = sys.stdout.isatty()
    table = Table(title, "", "what was seen, and what to do", box=None, padding=(0, 2, 0, 0))
    for finding in found:
        colour = _COLOURS[finding.state] if terminal else ""
        text = finding.what
        if finding.act and finding.state != "good":
            text += f"\n→ {finding.act}"
        if finding.page and finding.state != "good":
            text += f"\n  docs/operations/{finding.page}"
        table.add_row(finding.check, Text(finding.state, style=colour), Text(text))
    width = None if terminal else 1_000
    Console(width=width, highlight=False, markup=False).print(table)


def _verdict(states: set[State]) -> str:
    if "bad" in states:
        return "something is bad: begin at the first line that says so"
    if "unknown" in states:
        return "nothing is known to be bad; some of it could not be looked at from here"
    return "all is good" if "warning" not in states else "all is good; the warnings want time soon"


def _places(given: list[str]) -> dict[str, list[str]]:
    places: dict[str, list[str]] = {}
    for text in given:
        service, _, place = text.partition("=")
        if service not in SERVICES or ":" not in place:
            _usage(
                f"--metrics: {text!r} is not SERVICE=HOST:PORT with one of {', '.join(SERVICES)}"
            )
        places.setdefault(service, []).append(place)
    return places


def _usage(message: str) -> None:
    sys.stderr.write(f"weaver: {message}\n")
    raise typer.Exit(USAGE)
