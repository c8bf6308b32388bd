"""Where signing keys come from: a variable, or a file that may change while the service runs.

A file is read anew each time, whatever its path leads to by then, so that a mounted secret whose
links are swapped is seen like a file that was replaced.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from services.audit.keys.files import make_missing, read_file
from services.audit.keys.provenance import NOTHING_STATED, Provenance
from services.audit.keys.signers import (
    RECOMMENDED_BITS,
    KeyProblem,
    PrivateKey,
    Signer,
    blocks,
    check_pair,
    is_encrypted,
    load_ed25519,
    load_private,
    load_rsa,
)
from services.audit.note import Algorithm


@dataclass(frozen=True)
class Value:
    """One setting of a key.

    Attributes:
        source: what to call it in messages: the variable or the file.
        text: what it holds, where it is no file.
        path: its file.
        secret: whether its file must be for its owner alone.
        optional: whether the file may be missing.
    """

    source: str
    text: bytes | None = None
    path: Path | None = None
    secret: bool = True
    optional: bool = False

    def read(self) -> bytes | None:
        """Return what it holds now; None when there is nothing.

        Raises:
            KeyProblem: the file cannot be read, or others can read it.
        """
        if self.path is None:
            return self.text
        if self.optional and not self.path.exists():
            return None
        data = read_file(self.path, self.source, private=self.secret)
        # Some stores of secrets write line ends out; no PEM text has a backslash.
        return data.replace(b"\\n", b"\n") if b"-----BEGIN" in data else data


class LoadedKey(NamedTuple):
    """A key that may sign.

    Attributes:
        source: the variable or file that it is from.
        signer: signs with it.
        previous: signers of the keys that it may replace.
        provenance: what is stated of where it comes from.
        weak: whether it is shorter than is recommended.
    """

    source: str
    signer: Signer
    previous: tuple[Signer, ...]
    provenance: Provenance
    weak: bool


@dataclass(frozen=True)
class KeySource:
    """Where one key comes from, and what belongs to it.

    Attributes:
        algorithm: `RSA` or `Ed25519`.
        origin: the log's name, which is the key's.
        private: the private key.
        public: its public half, which must be its half.
        passphrase: opens it.
        previous: the key that it replaces, or several.
        production: whether a shorter key is refused.
        make: whether to make the key when its file is not there.
        made: what to state of a key that is made here.
        variable: what its variables begin with, for advice.
    """

    algorithm: Algorithm
    origin: str
    private: Value
    public: Value | None = None
    passphrase: Value | None = None
    previous: Value | None = None
    production: bool = False
    make: bool = False
    made: Provenance = NOTHING_STATED
    variable: str = ""

    @property
    def changeable(self) -> bool:
        """Whether anything of it can change while the process lives."""
        return any(value.path is not None for value in self._values)

    def digest(self) -> bytes:
        """Return what changes when anything of it does; never raises."""
        state = sha256()
        for value in self._values:
            try:
                data = value.read()
            except KeyProblem as problem:
                data = str(problem).encode()
            state.update(b"-" if data is None else sha256(data).digest())
        return state.digest()

    def load(self, *, start: bool = True) -> LoadedKey:
        """Return the key, checked.

        Args:
            start: whether a key may be made; of a service that runs, a file that is gone is a
                mistake, and no wish for another key.

        Raises:
            KeyProblem: it cannot be used; the message names the variable or file.
        """
        if start and self.make and self.private.path is not None:
            make_missing(self.private.path, self.algorithm, self.made)
        pem = self.private.read() or b""
        passphrase = self._passphrase()
        source = self.private.source
        if passphrase is None and self.variable and is_encrypted(pem):
            msg = (
                f"{source}: the key is encrypted, and no passphrase is set: set "
                f"{self.variable}_PASSPHRASE or {self.variable}_PASSPHRASE_FILE."
            )
            raise KeyProblem(msg)
        key: PrivateKey
        weak = False
        if self.algorithm == "RSA":
            rsa = load_rsa(pem, source, production=self.production, passphrase=passphrase)
            key, weak = rsa, rsa.key_size < RECOMMENDED_BITS
        else:
            key = load_ed25519(pem, source, passphrase=passphrase)
        public = None if self.public is None else self.public.read()
        if self.public is not None and public and public.strip():
            check_pair(key, public, self.public.source)
        signer = Signer(self.origin, key)
        previous = tuple(self._previous(signer, passphrase))
        return LoadedKey(source, signer, previous, Provenance.of(pem), weak)

    def _previous(self, current: Signer, passphrase: bytes | None) -> Sequence[Signer]:
        text = None if self.previous is None else self.previous.read()
        if self.previous is None or text is None or not text.strip():
            return []
        found: dict[str, Signer] = {}
        for block in blocks(text) or [text]:
            key = load_private(block, self.previous.source, passphrase)
            if not isinstance(key, PrivateKey):
                msg = f"{self.previous.source}: holds a key that is neither RSA nor Ed25519."
                raise KeyProblem(msg)
            signer = Signer(self.origin, key)
            if signer.verifier.algorithm != self.algorithm:
                msg = f"{self.previous.source}: holds no {self.algorithm} private key."
                raise KeyProblem(msg)
            if signer.verifier != current.verifier:
                found[signer.verifier.fingerprint] = signer
        return list(found.values())

    def _passphrase(self) -> bytes | None:
        text = None if self.passphrase is None else self.passphrase.read()
        return (text.rstrip(b"\r\n") or None) if text else None

    @property
    def _values(self) -> list[Value]:
        values = (self.private, self.public, self.passphrase, self.previous)
        return [value for value in values if value is not None]
