"""The files of signing keys: written for their owner alone, refused when others can read them.

A key file is replaced whole (rename), so that whoever reads it finds the old key or the new one.
"""

import os
import stat
from pathlib import Path

from services.audit.keys.provenance import NOTHING_STATED, Provenance
from services.audit.keys.signers import (
    KeyProblem,
    PrivateKey,
    generate_ed25519,
    generate_rsa,
    private_pem,
)
from services.audit.layout import make_directory
from services.audit.note import Algorithm, VerifierKey
from services.common.files import sync_directory

RSA_FILE = "telemetry_signing_key.pem"
RSA_PUBLIC_FILE = "telemetry_verification_key.pem"
ED25519_FILE = "audit_ed25519_key.pem"
LARGEST = 64 * 1024
_OTHERS = stat.S_IRWXO
_GROUP = stat.S_IRWXG


def previous_file(path: Path) -> Path:
    """Return where the outgoing key lies beside a key's file."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def check_file(path: Path, source: str) -> None:
    """Refuse a private key's file that others can read.

    A group may read a file that another user owns, such as root: in a mounted secret the group is
    the one way in for a process that is not root.

    Raises:
        KeyProblem: others can read it, or it is not there.
    """
    try:
        status = path.stat()
    except OSError as error:
        msg = f"{source}: cannot read {path}: {error.strerror}."
        raise KeyProblem(msg) from None
    advice = (
        "`chmod 600` it (a mounted secret: `defaultMode: 0440`), and replace the key if others may "
        "have read it."
    )
    if status.st_mode & _OTHERS:
        msg = f"{source}: {path} can be read by everybody; {advice}"
        raise KeyProblem(msg)
    if status.st_mode & _GROUP and not _only_way_in(status):
        msg = f"{source}: {path} can be read by its group; {advice}"
        raise KeyProblem(msg)


def read_file(path: Path, source: str, *, private: bool) -> bytes:
    """Return what a key's file holds.

    Raises:
        KeyProblem: it cannot be read, is too large, or is private and others can read it.
    """
    if private:
        check_file(path, source)
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        msg = f"{source}: cannot read {path}: {error.strerror}."
        raise KeyProblem(msg) from None
    if len(data) > LARGEST:
        msg = f"{source}: {path} has over {LARGEST} bytes; that is no key."
        raise KeyProblem(msg)
    return data


def write_private(
    path: Path,
    key: PrivateKey,
    *,
    provenance: Provenance | None = None,
    passphrase: bytes | None = None,
    replace: bool = False,
) -> None:
    """Write a private key, `0600` in a directory that is `0700` when made.

    Raises:
        KeyProblem: the file is there already and not to be replaced, or cannot be made.
    """
    text = private_pem(key, passphrase) + (provenance or NOTHING_STATED).text()
    write(path, text, 0o600, replace=replace)


def write_public(path: Path, key: PrivateKey, *, replace: bool = False) -> None:
    """Write the public half of a key, `0644`.

    Raises:
        KeyProblem: the file is there already and not to be replaced, or cannot be made.
    """
    write(path, VerifierKey("public", key.public_key()).pem.encode(), 0o644, replace=replace)


def write(path: Path, data: bytes, mode: int, *, replace: bool) -> None:
    """Put a file in place, whole and durable.

    Raises:
        KeyProblem: the file is there already and not to be replaced, or cannot be made.
    """
    draft = path.with_name(f".{path.name}.new")
    try:
        make_directory(path.parent, 0o700)
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        try:
            if replace:
                draft.replace(path)
            else:
                os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        msg = f"{path}: cannot make the key's file: {error.strerror}."
        raise KeyProblem(msg) from None


def make_missing(path: Path, algorithm: Algorithm, provenance: Provenance) -> None:
    """Make the key of a development machine, if its file is not there.

    Raises:
        KeyProblem: it cannot be made.
    """
    if path.exists():
        return
    key: PrivateKey = generate_rsa() if algorithm == "RSA" else generate_ed25519()
    if algorithm == "RSA":
        write_public(path.with_name(RSA_PUBLIC_FILE), key, replace=True)
    write_private(path, key, provenance=provenance)


def _only_way_in(status: os.stat_result) -> bool:
    """Say whether we read a file by its group alone, and cannot write it."""
    groups = {os.getegid(), *os.getgroups()}
    owned = status.st_uid == os.geteuid()
    return not owned and status.st_gid in groups and not status.st_mode & stat.S_IWGRP
