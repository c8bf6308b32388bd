"""`weaver roles check`: read a file of roles as the gateway would, before it does."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from services.common import operator_file
from services.common.operator_file import OperatorFileError
from services.gateway import roles
from services.gateway.authorization import Authorizer
from services.gateway.principal import Principal
from services.gateway.roles import MODEL_SURFACES, RolePolicy, RolesError

BAD_FILE = 1
DENIED = 3

app = typer.Typer(help="Check what roles allow.", no_args_is_help=True)


@app.callback()
def _named() -> None:
    """With one command alone Typer would drop its name."""


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="The file, as WEAVER_ROLES_FILE would name it.")],
    role: Annotated[
        list[str] | None, typer.Option(help="Try a caller with this role; may be repeated.")
    ] = None,
    surface: Annotated[str, typer.Option(help="The surface to try.")] = "chat.completions",
    model: Annotated[str, typer.Option(help="The model to try; without it nothing is tried.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002 - Typer's form
) -> None:
    """Check a file of roles, and try what a caller with some of them may do.

    Exit status: 0 good (and allowed), 1 the file is bad, 2 wrong usage, 3 a caller may not.
    """
    if surface not in MODEL_SURFACES:
        sys.stderr.write(f"weaver: --surface: one of {', '.join(MODEL_SURFACES)}.\n")
        raise typer.Exit(2)
    try:
        policy = roles.parse(operator_file.read(file))
    except (OperatorFileError, RolesError) as error:
        sys.stderr.write(f"weaver: {file}: {error}\n")
        raise typer.Exit(BAD_FILE) from None
    tried = None
    if model:
        caller = Principal("", "", "", tuple(sorted(set(role or ()))))
        tried = Authorizer(policy).of(caller).may_use(surface, model)
    if as_json:
        sys.stdout.write(json.dumps({**roles.describe(policy), "allowed": tried}) + "\n")
    else:
        sys.stdout.write(_text(policy))
        if tried is not None:
            names = ", ".join(role or ()) or "no role"
            verdict = "allowed" if tried else "denied"
            sys.stdout.write(f"{verdict}: {model} through {surface} with {names}\n")
    if tried is False:
        raise typer.Exit(DENIED)


def _text(policy: RolePolicy) -> str:
    lines = [f"good: {len(policy.roles)} roles, version {policy.version}"]
    for name, role in sorted(policy.roles.items()):
        surfaces = ", ".join(sorted(role.surfaces)) or "none"
        denied = f" but not {', '.join(role.deny)}" if role.deny else ""
        audit = roles.reach_json(role.records, role.keys, role.texts)
        lines += [
            name,
            f"  surfaces        {surfaces}",
            f"  models          {', '.join(role.allow) or 'none'}{denied}",
            f"  audit           {', '.join(f'{what}: {whose}' for what, whose in audit.items())}",
            f"  administration  {role.administration.name.lower()}",
        ]
    return "\n".join(lines) + "\n"
