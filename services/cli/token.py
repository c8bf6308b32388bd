"""`weaver token`: mint a token for the development environment.

It signs with the key that `weaver up` made. It refuses where there is none: production's tokens
come from its own issuer.
"""

import datetime as dt
import os
import re
import sys
from pathlib import Path
from typing import Annotated

import jwt
import typer

from services.cli import development
from services.common.settings import SettingsError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST_S = 365 * 86_400
ADMINISTRATOR = "administrator"

app = typer.Typer()


@app.command("token")
def token(
    subject: Annotated[str, typer.Option(help="Who it is for.")],
    tenant: Annotated[str, typer.Option(help="Whose account that is.")] = "default",
    role: Annotated[
        list[str] | None, typer.Option(help="A role, such as auditor; may be repeated.")
    ] = None,
    ttl: Annotated[str, typer.Option(help="How long it is good: 90s, 30m, 1h, 7d.")] = "1h",
) -> None:
    """Mint a JSON Web Token that the gateway of `weaver up` accepts."""
    try:
        development.refuse_elsewhere(os.environ)
        key = _key(Path(os.environ.get("WEAVER_STATE_DIR", ".weaver")))
        minted = mint(key, subject, tenant, role or ["user"], seconds(ttl))
    except (SettingsError, ValueError) as error:
        sys.stderr.write(f"weaver: {error}\n")
        raise typer.Exit(2) from None
    sys.stdout.write(f"{minted}\n")


def seconds(text: str) -> int:
    """Return a length of time such as `1h` in seconds.

    Raises:
        ValueError: it is not of that form, or longer than a year.
    """
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    length = int(found[1]) * UNITS[found[2]] if found else 0
    if not 0 < length <= LONGEST_S:
        msg = f"--ttl: {text!r} is not a time such as 90s, 30m, 1h or 7d, of at most a year."
        raise ValueError(msg)
    return length


def mint(key: bytes, subject: str, tenant: str, roles: list[str], ttl_s: int) -> str:
    """Return a signed token.

    Args:
        key: the issuer's private key, PEM.
        subject: who it is for.
        tenant: whose account that is.
        roles: what they may do.
        ttl_s: seconds until it expires.
    """
    now = dt.datetime.now(dt.UTC)
    claims = {
        "iss": development.JWT_ISSUER,
        "aud": development.JWT_AUDIENCE,
        "sub": subject,
        "tenant": tenant,
        "roles": roles,
        "iat": now,
        "nbf": now,
        "exp": now + dt.timedelta(seconds=ttl_s),
    }
    return jwt.encode(claims, key, algorithm="RS256")


def administrator(state: Path) -> str:
    """Return a token of this machine's administrator, good for a minute.

    Raises:
        SettingsError: this is no development environment, or was never started.
    """
    development.refuse_elsewhere(os.environ)
    return mint(_key(state), ADMINISTRATOR, "default", ["admin"], UNITS["m"])


def _key(state: Path) -> bytes:
    path = state / "keys" / development.JWT_KEY
    try:
        return path.read_bytes()
    except OSError:
        msg = f"no development key in {path}: start `weaver up` once, or set WEAVER_STATE_DIR."
        raise SettingsError(msg) from None
