"""`weaver keys rotate`: new keys in the place of the old ones."""

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from services.audit.keys.archive import ArchiveError, KeyArchive, load_archive
from services.audit.keys.files import (
    RSA_PUBLIC_FILE,
    previous_file,
    write,
    write_private,
    write_public,
)
from services.audit.keys.provenance import Provenance
from services.audit.keys.signers import (
    DEFAULT_RSA_BITS,
    RSA_SIZES,
    KeyProblem,
    PrivateKey,
    Signer,
    blocks,
    generate_ed25519,
    generate_rsa,
    load_private,
)
from services.audit.keys.source import KeySource
from services.audit.layout import Layout
from services.cli.keys.options import (
    AsJSON,
    Bits,
    By,
    Directory,
    For,
    LogOption,
    Reason,
    archive_of,
    busy,
    key_sources,
    layout_of,
    passphrase_of,
    settings_of,
    stated,
    usage,
)

app = typer.Typer()

_POLL_S = 0.1
_MOST_PREVIOUS = 8

Only = Annotated[
    Literal["rsa", "ed25519"] | None,
    typer.Option("--only", help="Rotate this one alone. Default: both."),
]
Wait = Annotated[
    float,
    typer.Option(
        "--wait",
        min=0,
        help="Seconds to wait for a service that runs on this machine to take the keys.",
    ),
]


@app.command("rotate")
def rotate_command(  # noqa: PLR0913, PLR0917 - each is an option
    directory: Directory = None,
    only: Only = None,
    bits: Bits = DEFAULT_RSA_BITS,
    reason: Reason = "rotation",
    by: By = "",
    environment: For = "",
    log: LogOption = None,
    wait: Wait = 15.0,
    as_json: AsJSON = False,  # noqa: FBT002 - a flag
) -> None:
    """Replace keys; a running service takes them without a restart.

    The next checkpoint is signed by old and new. The old private key is kept beside the new one,
    in `*.previous.pem`, until the log has that checkpoint.
    """
    if bits not in RSA_SIZES:
        usage(f"--bits: {bits} is none of {', '.join(map(str, RSA_SIZES))}")
    chosen = [
        source
        for source in key_sources(settings_of(directory))
        if only is None or source.algorithm.lower() == only
    ]
    archive = archive_of(log)
    provenance = stated(reason, by, environment)
    try:
        with busy("making keys"):
            done = [_rotate(source, bits, provenance, archive) for source in chosen]
    except KeyProblem as error:
        usage(str(error))
    layout = layout_of(log)
    awaited = wait > 0 and archive is not None and _is_served(layout)
    with busy("waiting for the service to take the keys"):
        taken = awaited and _until_taken(layout.keys, [key["fingerprint"] for key in done], wait)
    if taken:
        for key in done:
            Path(key["previous_key"]).unlink(missing_ok=True)
    _say(done, taken=taken, awaited=awaited, wait=wait, as_json=as_json)
    raise typer.Exit(1 if awaited and not taken else 0)


def _rotate(
    source: KeySource, bits: int, provenance: Provenance, archive: KeyArchive | None
) -> dict[str, Any]:
    path = source.private.path
    if path is None:
        msg = (
            f"{source.private.source}: the key is in the variable and not in a file. Make the new "
            f"one with `weaver keys generate --directory NEW`, put it into the variable, and the "
            f"old one into {source.private.source}_PREVIOUS."
        )
        raise KeyProblem(msg)
    passphrase = passphrase_of(source)
    old = _current(path, source, passphrase)
    key: PrivateKey = generate_rsa(bits) if source.algorithm == "RSA" else generate_ed25519()
    new = Signer("new", key).verifier
    kept = _kept(source, path, passphrase, archive)
    previous = previous_file(path)
    write(previous, b"".join(kept), 0o600, replace=True)
    write_private(path, key, provenance=provenance, passphrase=passphrase, replace=True)
    if source.algorithm == "RSA":
        public = path.with_name(RSA_PUBLIC_FILE)
        if source.public is not None and source.public.path is not None:
            public = source.public.path
        write_public(public, key, replace=True)
    return {
        "algorithm": source.algorithm,
        "private_key": str(path),
        "previous_key": str(previous),
        "old_fingerprint": old,
        "fingerprint": new.fingerprint,
    }


def _current(path: Path, source: KeySource, passphrase: bytes | None) -> str:
    """Return the fingerprint of the key that goes; one that is weak or exposed may go, too."""
    try:
        key = load_private(path.read_bytes(), str(path), passphrase)
    except OSError as error:
        msg = f"{path}: cannot read the key to replace: {error.strerror}. `weaver keys generate`?"
        raise KeyProblem(msg) from None
    verifier = Signer("old", key).verifier if isinstance(key, PrivateKey) else None
    if verifier is None or verifier.algorithm != source.algorithm:
        msg = f"{path}: holds no {source.algorithm} private key."
        raise KeyProblem(msg)
    return verifier.fingerprint


def _kept(
    source: KeySource, path: Path, passphrase: bytes | None, archive: KeyArchive | None
) -> list[bytes]:
    """Return the keys that may have to endorse the new one, the newest first.

    When the log says which key it signs with, that one is enough; a key that was replaced before
    any service used it endorses nothing.
    """
    texts = [path.read_bytes()]
    if previous_file(path).exists():
        texts.append(previous_file(path).read_bytes())
    found: dict[str, bytes] = {}
    for block in (block for text in texts for block in blocks(text)):
        key = load_private(block, source.private.source, passphrase)
        if isinstance(key, PrivateKey):
            found.setdefault(Signer("old", key).verifier.fingerprint, block + b"\n")
    signing = {term.fingerprint for term in archive.active} if archive is not None else set()
    known = [block for fingerprint, block in found.items() if fingerprint in signing]
    return known or list(found.values())[:_MOST_PREVIOUS]


def _is_served(layout: Layout) -> bool:
    """Say whether a service on this machine writes the log."""
    try:
        process, host = layout.lock.read_text().split("\n")[:2]
        os.kill(int(process), 0)
    except PermissionError:
        return True  # It runs, as another user.
    except (OSError, ValueError):
        return False
    return host == socket.gethostname()


def _until_taken(path: Path, fingerprints: list[str], wait: float) -> bool:
    """Wait until the archive has the keys with the record and the endorsement of each."""
    end = time.monotonic() + wait
    while time.monotonic() < end:
        try:
            active = {term.fingerprint: term for term in load_archive(path).active}
        except ArchiveError:
            active = {}
        if all(name in active and active[name].endorsement for name in fingerprints):
            return True
        time.sleep(_POLL_S)
    return False


def _say(
    done: list[dict[str, Any]], *, taken: bool, awaited: bool, wait: float, as_json: bool
) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"keys": done, "taken": taken}) + "\n")
        return
    for key in done:
        sys.stdout.write(f"{key['algorithm']}: {key['private_key']}\n")
        sys.stdout.write(f"  old {key['old_fingerprint']}\n  new {key['fingerprint']}\n")
    if taken:
        sys.stdout.write("the service signs with the new keys, and the old ones endorsed them\n")
    elif awaited:
        sys.stdout.write(
            f"the service has not taken the keys within {wait:g} s; the old ones go on signing. "
            f"Its log says why (audit_key_refused), and /v1/health, which administrators may "
            f"read, has audit.key_rotation down.\n"
        )
    else:
        sys.stdout.write(
            "no service runs on this log here; the next start takes the keys. "
            "Until then keep the *.previous.pem files: the old keys endorse the new ones.\n"
        )
