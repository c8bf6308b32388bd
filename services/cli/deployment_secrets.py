"""`weaver secrets`: the secrets of a deployment with Compose, a directory for each who needs some.

Each service's directory is mounted into its containers alone, so no service sees another's key. It
never replaces a file that is there, so an operator's own certificates and keys stay, and a second
run makes only what is missing. Where a vault or cert-manager makes secrets, it is not needed.
"""

import json
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from services.audit.keys.files import write_private, write_public
from services.audit.keys.provenance import Provenance
from services.audit.keys.signers import RSA_SIZES, generate_ed25519, generate_rsa
from services.cli.keys.options import stated
from services.common import certificates
from services.common.settings import CommonSettings, load

UID = 10001
"""Whom the images run as."""
PLACES = {
    "envoy": ("envoy", "front"),
    "gateway": ("gateway",),
    "ratelimit": ("ratelimit",),
    "model": ("model",),
    "audit": ("audit",),
}
"""The certificates that each container holds."""
STORE_READERS = ("redis", "gateway", "ratelimit")
"""Who gets the store's password."""
STORES = ("redis", "redis-replica-1", "redis-replica-2")

app = typer.Typer(help="Make the secrets of a deployment with Compose.", no_args_is_help=True)
app.callback()(lambda: None)


@app.command("create")
def create(
    directory: Annotated[Path, typer.Argument(help="Where: deploy/compose/secrets.")],
    bits: Annotated[int, typer.Option(help="RSA: 2048, 3072 or 4096.")] = 4096,
    owner: Annotated[int, typer.Option(help="The user id that the containers run as.")] = UID,
) -> None:
    """Make what is missing: certificates, signing keys, passwords. Needs root, to give them away.

    The provider's key is left empty in model/api-key: put yours there. gateway/jwt-public-key.pem
    belongs to issuer/jwt-key.pem, which is for trials: replace it by your issuer's.
    """
    if bits not in RSA_SIZES:
        _fail(f"--bits: {bits} is none of {', '.join(map(str, RSA_SIZES))}.")
    if os.geteuid() != 0 and os.geteuid() != owner:
        _fail(f"only root can give files to the user id {owner} of the containers: use sudo.")
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    made = _Maker(directory, owner, bits, stated("created with the deployment", "", "")).all()
    for path in made:
        sys.stdout.write(f"{path}\n")
    if not made:
        sys.stderr.write("weaver: everything is there already; nothing was made.\n")


class _Maker:
    """Makes the files that are missing.

    Args:
        root: where.
        owner: whom they are for.
        bits: of RSA keys.
        provenance: why they were made, for the log.
    """

    def __init__(self, root: Path, owner: int, bits: int, provenance: Provenance) -> None:
        self._root = root
        self._owner = owner
        self._bits = bits
        self._provenance = provenance
        self._made: list[Path] = []

    def all(self) -> list[Path]:
        """Make everything, and return what was made."""
        self._certificates()
        self._signing_keys()
        self._text("audit/store-key", secrets.token_hex(32))
        self._text("gateway/api-keys", secrets.token_hex(32))
        self._text("model/api-key", "")
        self._issuer()
        password = self._shared("redis/password", secrets.token_urlsafe(32))
        for reader in STORE_READERS:
            self._text(
                f"{reader}/{'password' if reader == 'redis' else 'redis-password'}", password
            )
        stores = {f"redis://{host}:6379": password for host in STORES}
        self._text("redis-exporter/passwords.json", json.dumps(stores, indent=1))
        cache = self._shared("cache/password", secrets.token_urlsafe(32))
        self._text("cache/password", cache)
        self._text("model/cache-password", cache)
        self._text("model/cache-key", secrets.token_hex(32))
        self._text("grafana/password", secrets.token_urlsafe(18))
        # Images of others have users of their own; nobody gets past the root directory.
        for place in ("grafana", "redis", "cache"):
            (self._root / place).chmod(0o755)
            (self._root / place / "password").chmod(0o444)
        return self._made

    def _certificates(self) -> None:
        """Make a local authority and what it signs; its own key stays in `ca`."""
        missing = [
            name
            for place, names in PLACES.items()
            for name in names
            if not (self._root / place / "tls" / f"{name}.pem").exists()
        ]
        if not missing:
            return
        with tempfile.TemporaryDirectory(dir=self._root) as scratch:
            authority, tls = self._root / "ca", Path(scratch) / "tls"
            tls.mkdir()
            for name in ("ca.pem", "ca-key.pem"):
                if (authority / name).exists():
                    shutil.copyfile(authority / name, tls / name)
            settings = load(
                CommonSettings, environment="development", state_dir=Path(scratch), tls_dir=None
            )
            certificates.ensure(settings)
            for name in ("ca.pem", "ca-key.pem"):
                self._file(f"ca/{name}", (tls / name).read_bytes(), owner=os.geteuid())
            for place, names in PLACES.items():
                self._file(f"{place}/tls/ca.pem", (tls / "ca.pem").read_bytes())
                for name in names:
                    if name in missing:
                        for part in (f"{name}.pem", f"{name}-key.pem"):
                            self._file(f"{place}/tls/{part}", (tls / part).read_bytes())

    def _signing_keys(self) -> None:
        path = self._root / "audit" / "signing-key.pem"
        if not path.exists():
            key = generate_rsa(self._bits)
            self._directory(path.parent)
            write_private(path, key, provenance=self._provenance)
            public = path.with_name("verification-key.pem")
            public.unlink(missing_ok=True)
            write_public(public, key)
            self._give(path)
            self._give(public)
        path = path.with_name("ed25519-key.pem")
        if not path.exists():
            write_private(path, generate_ed25519(), provenance=self._provenance)
            self._give(path)

    def _issuer(self) -> None:
        """Make a pair for tokens of trials, where nobody named an issuer's key."""
        public = self._root / "gateway" / "jwt-public-key.pem"
        if public.exists():
            return
        key = generate_rsa(2048)
        private = self._root / "issuer" / "jwt-key.pem"
        self._directory(private.parent, os.geteuid())
        private.unlink(missing_ok=True)
        write_private(private, key)
        write_public(public, key)
        self._made.append(private)
        self._give(public)

    def _shared(self, name: str, value: str) -> str:
        """Return what is there already, or the new value."""
        path = self._root / name
        return path.read_text().strip() if path.exists() else value

    def _text(self, name: str, value: str) -> None:
        self._file(name, f"{value}\n".encode() if value else b"")

    def _file(self, name: str, content: bytes, owner: int | None = None) -> None:
        path = self._root / name
        if path.exists():
            return
        self._directory(path.parent, owner)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        self._give(path, owner)

    def _directory(self, path: Path, owner: int | None = None) -> None:
        if path != self._root and not path.exists():
            self._directory(path.parent, owner)
            path.mkdir(mode=0o700)
            self._own(path, owner)

    def _give(self, path: Path, owner: int | None = None) -> None:
        self._own(path, owner)
        self._made.append(path)

    def _own(self, path: Path, owner: int | None) -> None:
        owner = self._owner if owner is None else owner
        if path.stat().st_uid != owner:
            os.chown(path, owner, owner)


def _fail(message: str) -> None:
    sys.stderr.write(f"weaver: {message}\n")
    raise typer.Exit(2)
