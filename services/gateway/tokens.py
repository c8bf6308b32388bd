"""JSON Web Tokens: verified once, remembered until they end or their key is gone.

A token is read strictly (`jws`), verified by a key that is known here (`key_ring`), and only then
is anything that it says believed (`claims`). It is never logged, and never kept in clear.
"""

import hashlib
from typing import Final, NamedTuple, Protocol

from services.common.clock import Clock
from services.common.errors import Unauthenticated, Unavailable
from services.gateway import jws
from services.gateway.claims import ClaimRules
from services.gateway.jws import Signed, bad_token
from services.gateway.key_ring import KeyRing
from services.gateway.principal import Principal
from services.gateway.recent import Recent
from services.gateway.verification_keys import VerificationKey

MOST_REMEMBERED: Final = 20_000


class Issuer(Protocol):
    """Where keys can be asked for that are not known yet."""

    @property
    def reachable(self) -> bool:
        """Whether the last time it was asked it answered."""
        ...

    async def renew(self) -> bool:
        """Ask for the keys, unless that was just done; return whether they were read anew."""
        ...


class _Verified(NamedTuple):
    until: float
    principal: Principal
    key: VerificationKey


class Tokens:
    """Verifies tokens.

    Args:
        ring: the keys.
        clock: for the times in tokens.
        algorithms: the algorithms that are accepted, and no others.
        rules: what the claims must be.
        issuer: asked for keys that are not known; None where there is nobody to ask.
        most: how many verified tokens are remembered.
    """

    def __init__(  # noqa: PLR0913 - what decides about a token
        self,
        ring: KeyRing,
        clock: Clock,
        *,
        algorithms: tuple[str, ...] = ("RS256",),
        rules: ClaimRules,
        issuer: Issuer | None = None,
        most: int = MOST_REMEMBERED,
    ) -> None:
        """See the class."""
        self._ring = ring
        self._clock = clock
        self._algorithms = algorithms
        self._rules = rules
        self._issuer = issuer
        self._verified: Recent[bytes, _Verified] = Recent(most)
        ring.changed = self._forget

    def __len__(self) -> int:
        """Return how many verified tokens are remembered."""
        return len(self._verified)

    async def principal(self, token: str, digest: bytes = b"") -> Principal:
        """Verify a token and return its principal.

        Args:
            token: the token.
            digest: its SHA-256, where somebody has it already.

        Raises:
            Unauthenticated: the token is malformed, forged, expired or not meant for us.
            Unavailable: only its issuer could tell whether it is good, and cannot be reached.
        """
        digest = digest or hashlib.sha256(token.encode()).digest()
        known = self._verified.get(digest)
        if known is not None and self._clock.time() < known.until:
            return known.principal
        signed = jws.read(token, self._algorithms)
        key = await self._verified_by(signed)
        principal, until = self._rules.principal(signed.claims(), self._clock.time())
        self._verified.put(digest, _Verified(until, principal, key))
        return principal

    async def _verified_by(self, signed: Signed) -> VerificationKey:
        """Return the key that the token is signed with.

        One that no key here has signed may be signed with a new one, under a new id or under that
        of an old key: the issuer is asked for both, at most once in its interval.
        """
        key = self._try(signed)
        if key is not None:
            return key
        if self._issuer is not None:
            if await self._issuer.renew():
                key = self._try(signed)
            if key is not None:
                return key
            if not self._ring.knows(signed.key_id) and not self._issuer.reachable:
                msg = "The token cannot be verified: its issuer's keys cannot be had now."
                raise Unavailable(msg, reason="IDENTITY_UNAVAILABLE", retry_after_s=1.0)
        raise _unverified(self._ring, signed)

    def _try(self, signed: Signed) -> VerificationKey | None:
        for key in self._ring.candidates(signed.key_id, signed.algorithm):
            if key.verifies(signed.algorithm, signed.signature, signed.content):
                return key
        return None

    def _forget(self) -> None:
        """Forget what keys have verified that are no longer in the ring."""
        keys = self._ring.keys
        self._verified.forget(lambda verified: verified.key not in keys)


def _unverified(ring: KeyRing, signed: Signed) -> Unauthenticated:
    if ring.candidates(signed.key_id, signed.algorithm):
        return bad_token("its signature does not verify")
    if ring.knows(signed.key_id):
        return bad_token("its key is not one for its algorithm")
    return bad_token("it is signed with a key that is not known here")
