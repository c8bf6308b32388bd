"""Every key that verifies tokens, whatever it came from, found by its id."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from services.gateway import jws
from services.gateway.verification_keys import KeyRefused, VerificationKey, from_jwk

MOST_KEYS: Final = 100
MOST_UNNAMED: Final = 4
"""How many keys a token without `kid` may mean; each costs a verification."""


class KeyRing:
    """The keys in force, by where they come from.

    A key that leaves the ring takes along what it has verified: `changed` is called, so that
    nothing that it signed is remembered.
    """

    def __init__(self) -> None:
        """Begin with no key."""
        self.changed: Callable[[], None] = _ignore
        self._sources: dict[str, tuple[VerificationKey, ...]] = {}
        self._named: dict[str, tuple[VerificationKey, ...]] = {}
        self._unnamed: tuple[VerificationKey, ...] = ()
        self.keys: frozenset[VerificationKey] = frozenset()

    def put(self, source: str, keys: Iterable[VerificationKey]) -> None:
        """Let these be the keys of a source, and no others."""
        self._sources[source] = tuple(keys)
        named: dict[str, tuple[VerificationKey, ...]] = {}
        every = dict.fromkeys(key for keys in self._sources.values() for key in keys)
        for key in every:
            named[key.id] = (*named.get(key.id, ()), key)
        self._unnamed = named.pop("", ())
        self._named, self.keys = named, frozenset(every)
        self.changed()

    def knows(self, key_id: str | None) -> bool:
        """Return whether a key has this id; a token without one may mean a key that is not here."""
        return key_id in self._named

    def candidates(self, key_id: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """Return the keys that a token may mean: those of its id, or those that have none.

        Raises:
            Unauthenticated: it has no id, and too many keys would have to be tried.
        """
        if key_id is None:
            fitting = tuple(key for key in self.keys if algorithm in key.algorithms)
            if len(fitting) > MOST_UNNAMED:
                raise jws.bad_token("it names no key (`kid`), and several could be meant")
            return fitting
        keys = self._named.get(key_id, self._unnamed)
        return tuple(key for key in keys if algorithm in key.algorithms)[:MOST_UNNAMED]


def read_jwks(document: Mapping[str, object]) -> tuple[tuple[VerificationKey, ...], list[str]]:
    """Return the keys of a JWK Set (RFC 7517 §5), and what is wrong with those left out.

    Raises:
        KeyRefused: it is none, or not one of its keys can verify a token.
    """
    listed = document.get("keys")
    if not isinstance(listed, list) or not all(isinstance(jwk, dict) for jwk in listed):
        msg = "is no JWK Set: it has no list `keys` of objects"
        raise KeyRefused(msg)
    if len(listed) > MOST_KEYS:
        msg = f"has more than {MOST_KEYS} keys"
        raise KeyRefused(msg)
    keys, problems = [], []
    for number, jwk in enumerate(listed):
        try:
            keys.append(from_jwk(jwk))
        except KeyRefused as refused:
            problems.append(f"keys[{number}]: {refused}")
    if not keys:
        msg = f"has no key that can verify a token ({'; '.join(problems[:3]) or 'it is empty'})"
        raise KeyRefused(msg)
    return tuple(keys), problems


def version(keys: Iterable[VerificationKey]) -> str:
    """Return a name for a set of keys: the same keys have the same one."""
    parts = sorted(f"{key.id}\0{key.fingerprint}\0{sorted(key.algorithms)}" for key in keys)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _ignore() -> None:
    """Do nothing."""
