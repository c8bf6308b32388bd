"""`weaver envoy`: render the front proxy's configuration, have it checked, let traffic back in."""

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from services.cli import edge, probe, programs
from services.cli.settings import EdgeSettings, Target
from services.common import certificates
from services.common.settings import CommonSettings, SettingsError, load

_COLLECTORS = {"local": "http://localhost:4317", "container": "https://otel.example.com"}

app = typer.Typer(
    help="Render and check the configuration of Envoy; let traffic in.", no_args_is_help=True
)


@app.command()
def render(
    target: Annotated[Target, typer.Option(help="This machine, or containers.")] = "local",
    output: Annotated[
        Path | None,
        typer.Option(help="Write every file into this directory instead of one to the terminal."),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(help="Where the files will lie when Envoy reads them; default: --output."),
    ] = None,
) -> None:
    """Fill the settings into the one configuration under deploy/envoy."""
    try:
        settings = EdgeSettings.for_target(target)
        place = directory or (output.absolute() if output else edge.CONTAINER_DIRECTORY)
        files = edge.render(settings, target, place)
    except SettingsError as error:
        _fail(str(error), 2)
    if output is None:
        sys.stdout.write(files[edge.CONFIGURATION])
    else:
        edge.write(files, output)


@app.command()
def validate() -> None:
    """Let Envoy check both renderings, with throw-away certificates."""
    try:
        program = programs.envoy()
        for target in get_args(Target):
            with tempfile.TemporaryDirectory(prefix="weaver-envoy-") as scratch:
                problem = _check(program, target, Path(scratch))
            if problem:
                _fail(f"Envoy refuses the configuration for {target}:\n{problem}", 1)
            sys.stdout.write(f"envoy configuration for {target}: good\n")
    except SettingsError as error:
        _fail(str(error), 2)
    except programs.MissingToolError as error:
        _fail(str(error), 1)


@app.command()
def traffic(
    percent: Annotated[
        int | None, typer.Argument(min=0, max=100, help="How many in a hundred to let in.")
    ] = None,
    admin: Annotated[
        str, typer.Option(help="Envoy's admin interface; default: the one of this machine.")
    ] = "",
) -> None:
    """Let some of the traffic in, after an outage; or say how much is let in now.

    Who is turned away gets 503 with retry-after; `/health`, the audit log and administration always
    answer. A restart of Envoy lets everybody in again.
    """
    try:
        place = admin or load(EdgeSettings).admin_listen
        front = probe.reachable(place, "WEAVER_ENVOY_ADMIN_LISTEN")
        if percent is not None:
            change = f"/runtime_modify?{edge.TURNED_AWAY}={100 - percent}"
            asyncio.run(probe.request("POST", front, change))
        _, body = asyncio.run(probe.request("GET", front, "/runtime"))
        entry = _json_of(body).get("entries", {}).get(edge.TURNED_AWAY, {})
        let_in = 100 - int(entry.get("final_value") or 0)
    except SettingsError as error:
        _fail(str(error), 2)
    except (OSError, ValueError, AttributeError) as error:
        _fail(f"Envoy's admin interface {place} does not answer: {error}. Name it: --admin", 1)
    if percent is not None and let_in != percent:
        _fail(f"Envoy lets {let_in} in a hundred in, not {percent}", 1)
    sys.stdout.write(f"{let_in} in a hundred requests are let in\n")


def _json_of(body: str) -> dict[str, Any]:
    """Return the object in an answer, which may come in chunks."""
    found: dict[str, Any] = json.loads(body[body.index("{") : body.rindex("}") + 1])
    return found


def _check(program: Path, target: Target, scratch: Path) -> str:
    """Return what Envoy says against a rendering; warnings count."""
    throw_away = load(CommonSettings, environment="development", state_dir=scratch, tls_dir=None)
    certificates.ensure(throw_away)
    socket = f"unix:{scratch}/gateway.sock"
    # With every part that a setting can add.
    settings = EdgeSettings.for_target(
        target,
        tls_dir=throw_away.tls_path,
        edge_listen=socket,
        address_rps=10,
        cors_origins=("https://app.example", "*"),
        telemetry_enabled=True,
        telemetry_endpoint=_COLLECTORS[target],
    )
    main = edge.write(edge.render(settings, target, scratch), scratch)
    result = subprocess.run(  # noqa: S603 - the wheel's own Envoy
        [program, "--mode", "validate", "-l", "warning", "-c", main],
        capture_output=True,
        check=False,
        text=True,
    )
    if result.returncode == 0 and not result.stderr.strip():
        return ""
    return result.stderr + result.stdout


def _fail(message: str, status: int) -> None:
    sys.stderr.write(f"weaver: {message}\n")
    raise typer.Exit(status)
