"""`weaver envoy`: render the front proxy's configuration, and let Envoy itself check it."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, get_args

import typer

from services.cli import edge, programs
from services.cli.settings import EdgeSettings, Target
from services.common import certificates
from services.common.settings import CommonSettings, SettingsError, load

_COLLECTORS = {"local": "http://localhost:4317", "container": "https://otel.example.com"}

app = typer.Typer(help="Render and check the configuration of Envoy.", no_args_is_help=True)


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
