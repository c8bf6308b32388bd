"""`weaver keys`: make, list and check the keys that sign the audit log.

Exit codes: 0 good, 1 a key is not, 2 called in a wrong way.
"""

import json
import os
import stat
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from services.audit.archive import ArchiveError, load_archive
from services.audit.keyfiles import (
    ED25519_FILE,
    RSA_FILE,
    RSA_PUBLIC_FILE,
    check_file,
    write_private,
    write_public,
)
from services.audit.keys import (
    DEFAULT_RSA_BITS,
    RSA_SIZES,
    KeyProblem,
    check_pair,
    generate_ed25519,
    generate_rsa,
    load_ed25519,
    load_rsa,
)
from services.audit.layout import Layout
from services.cli.audit.options import default_log

app = typer.Typer(name="keys", help="Make, list and check signing keys.", no_args_is_help=True)

_RECOMMENDED_BITS = 4096
_DAY_S = 86_400
_ROTATE_DAYS = 90

Directory = Annotated[
    Path | None,
    typer.Option("--directory", help="Where the keys lie. Default: keys/ in the state directory."),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Write JSON for machines.")]


@app.command("generate")
def generate_command(
    directory: Directory = None,
    bits: Annotated[int, typer.Option(help="RSA: 2048, 3072 or 4096.")] = DEFAULT_RSA_BITS,
) -> None:
    """Make an RSA and an Ed25519 key: files 0600, directory 0700. Never overwrites one."""
    where = _where(directory)
    if bits not in RSA_SIZES:
        _usage(f"--bits: {bits} is none of {', '.join(map(str, RSA_SIZES))}")
    names = (RSA_FILE, RSA_PUBLIC_FILE, ED25519_FILE)
    for name in names:
        if (where / name).exists():
            _usage(f"{where / name} is there already; nothing was made")
    try:
        rsa = generate_rsa(bits)
        write_private(where / RSA_FILE, rsa)
        write_public(where / RSA_PUBLIC_FILE, rsa)
        write_private(where / ED25519_FILE, generate_ed25519())
    except KeyProblem as error:
        _usage(str(error))
    for name, variable in zip(
        names,
        (
            "WEAVER_TELEMETRY_SIGNING_KEY_FILE",
            "WEAVER_TELEMETRY_VERIFICATION_KEY_FILE",
            "WEAVER_AUDIT_ED25519_KEY_FILE",
        ),
        strict=True,
    ):
        sys.stdout.write(f"{variable}={where / name}\n")


@app.command("list")
def list_command(
    log: Annotated[Path | None, typer.Option("--log", help="The log's directory.")] = None,
    as_json: AsJSON = False,  # noqa: FBT002 - a flag
) -> None:
    """List every key that ever signed the log: age, validity, fingerprint."""
    try:
        archive = load_archive(Layout(log or default_log()).keys)
    except ArchiveError as error:
        _usage(str(error))
    if as_json:
        keys = [
            {name: getattr(key, name) for name in key.__struct_fields__} for key in archive.keys
        ]
        sys.stdout.write(json.dumps({"origin": archive.origin, "keys": keys}) + "\n")
        return
    table = Table("algorithm", "fingerprint", "from", "until", "age", box=None)
    for key in archive.keys:
        age = (time.time() - datetime.fromisoformat(key.start_time).timestamp()) / _DAY_S
        until = key.end_time or "now"
        table.add_row(
            key.algorithm, key.fingerprint, key.start_time, until, f"{max(0, int(age))} days"
        )
    Console(width=None if sys.stdout.isatty() else 1_000, highlight=False).print(table)


@app.command("check")
def check_command(directory: Directory = None) -> None:
    """Check the private keys: readable, strong, paired, not for everybody's eyes, not too old."""
    where = _where(directory)
    problems: list[str] = []
    warnings: list[str] = []
    production = os.environ.get("ENVIRONMENT") == "production"
    rsa_path = _path("WEAVER_TELEMETRY_SIGNING_KEY_FILE", where / RSA_FILE)
    public_path = _path("WEAVER_TELEMETRY_VERIFICATION_KEY_FILE", where / RSA_PUBLIC_FILE)
    ed25519_path = _path("WEAVER_AUDIT_ED25519_KEY_FILE", where / ED25519_FILE)
    try:
        check_file(rsa_path, str(rsa_path))
        rsa = load_rsa(rsa_path.read_bytes(), str(rsa_path), production=production)
        if rsa.key_size < _RECOMMENDED_BITS:
            warnings.append(f"{rsa_path}: {rsa.key_size} bits; {_RECOMMENDED_BITS} are better")
        check_pair(rsa, public_path.read_bytes(), str(public_path))
    except (KeyProblem, OSError) as error:
        problems.append(str(error))
    try:
        check_file(ed25519_path, str(ed25519_path))
        load_ed25519(ed25519_path.read_bytes(), str(ed25519_path))
    except (KeyProblem, OSError) as error:
        problems.append(str(error))
    for path in (rsa_path, ed25519_path):
        if path.exists():
            if path.stat().st_mode & (stat.S_IRGRP | stat.S_IWGRP):
                warnings.append(f"{path}: its group can read it")
            age = (time.time() - path.stat().st_mtime) / _DAY_S
            if age > _ROTATE_DAYS:
                warnings.append(f"{path}: {int(age)} days old; keys are replaced at {_ROTATE_DAYS}")
    for warning in warnings:
        sys.stdout.write(f"warning: {warning}\n")
    for problem in problems:
        sys.stdout.write(f"bad: {problem}\n")
    sys.stdout.write("the keys cannot be used\n" if problems else "the keys are good\n")
    raise typer.Exit(1 if problems else 0)


def _where(directory: Path | None) -> Path:
    return directory or Path(os.environ.get("WEAVER_STATE_DIR", ".weaver")) / "keys"


def _path(variable: str, default: Path) -> Path:
    value = os.environ.get(variable)
    return Path(value) if value else default


def _usage(message: str) -> NoReturn:
    sys.stderr.write(f"weaver: {message}\n")
    raise typer.Exit(2)
