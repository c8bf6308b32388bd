"""One managed API key: what is kept of it, and what it becomes.

Nothing here can be turned back into a key's text: of each secret there is a SHA-256 digest, which
is enough, since a secret has 190 random bits. A key is never deleted, so that its id never means
somebody else and its records stay whose they were.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

import msgspec

from services.common.errors import InvalidArgument
from services.gateway.apikeys import text
from services.gateway.principal import NO_LIMITS, Grant, OwnLimits, Principal

ISSUER: Final = "apikey"
FORMAT: Final = 1
"""The newest that is read here; what a newer gateway wrote may mean more than it seems."""
MOST_SECRETS: Final = 5
"""Accepted at once at most: rotating more often than the overlap allows is a mistake."""


class Secret(msgspec.Struct, frozen=True, omit_defaults=True):
    """One secret of a key.

    Attributes:
        digest: SHA-256 of the key's whole text, in hexadecimal.
        created: Unix seconds.
        expires: Unix seconds; 0 for as long as the key.
    """

    digest: str
    created: int
    expires: int = 0

    def expired(self, now: float) -> bool:
        """Say whether the overlap of a rotation is over."""
        return 0 < self.expires <= now


class ApiKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key as the store keeps it.

    Attributes:
        id: `key_` and 12 letters or digits.
        tenant: whose it is.
        owner: who answers for it.
        roles: what it may do, sorted.
        secrets: the newest first.
        created: Unix seconds.
        models: patterns; empty for every model of its roles.
        limits: its own.
        expires: Unix seconds; 0 for without end.
        disabled: whether it is refused until somebody enables it.
        changed: Unix seconds of the last change.
        changed_by: who made it: issuer and subject, or a user on a machine.
        past_gateway: whether that was done in the store, past a gateway and its records.
        format: how to read this.
        version: grows with every change; kept beside the rest, not in it.
    """

    id: str
    tenant: str
    owner: str
    roles: tuple[str, ...]
    secrets: tuple[Secret, ...]
    created: int
    models: tuple[str, ...] = ()
    limits: OwnLimits = NO_LIMITS
    expires: int = 0
    disabled: bool = False
    changed: int = 0
    changed_by: str = ""
    past_gateway: bool = False
    format: int = 1
    version: int = 0

    def state(self, now: float) -> str:
        """Return `active`, `disabled` or `expired`."""
        if self.disabled:
            return "disabled"
        return "expired" if 0 < self.expires <= now else "active"

    def matching(self, digest: bytes) -> Secret | None:
        """Return the secret that a digest is of, in a time that tells nothing of the others."""
        found = None
        for secret in self.secrets:
            if hmac.compare_digest(bytes.fromhex(secret.digest), digest):
                found = secret
        return found

    def principal(self, secret: Secret) -> Principal:
        """Return who sends this secret."""
        limits = None if self.limits == NO_LIMITS else self.limits
        grant = Grant(
            self.owner,
            self.models,
            limits,
            self.created,
            self.until(secret),
            secret is not self.secrets[0],
            self.version,
        )
        return Principal(self.tenant, ISSUER, self.id, self.roles, grant)

    def until(self, secret: Secret) -> int:
        """Return when a secret is accepted no more, in Unix seconds; 0 for never."""
        ends = [end for end in (self.expires, secret.expires) if end]
        return min(ends, default=0)

    def switched(self, *, disabled: bool) -> "ApiKey":
        """Return the key disabled or enabled."""
        return msgspec.structs.replace(self, disabled=disabled)

    def rotated(self, new_text: str, *, overlap_s: int, now: int) -> "ApiKey":
        """Return the key with another secret, the ones before it until the overlap is over.

        Raises:
            InvalidArgument: too many secrets would be accepted at once.
        """
        end = now + overlap_s
        kept = []
        for secret in self.secrets:
            expires = min(secret.expires, end) if secret.expires else end
            if expires > now:
                kept.append(msgspec.structs.replace(secret, expires=expires))
        if len(kept) >= MOST_SECRETS:
            raise InvalidArgument.of_field(
                "id",
                f"the key has {len(kept)} secrets that are still accepted, which is the most; "
                "rotate it without overlap, or wait until one has ended.",
            )
        secret = Secret(digest_of(new_text).hex(), now)
        return msgspec.structs.replace(self, secrets=(secret, *kept))


def digest_of(key_text: str) -> bytes:
    """Return what is kept of a key's text."""
    return hashlib.sha256(key_text.encode()).digest()


def new_key(  # noqa: PLR0913 - what a key has
    made: text.Made,
    *,
    tenant: str,
    owner: str,
    roles: Sequence[str],
    models: Sequence[str],
    limits: OwnLimits,
    expires: int,
    now: int,
) -> ApiKey:
    """Return a key that nobody has seen yet."""
    return ApiKey(
        id=made.id,
        tenant=tenant,
        owner=owner,
        roles=tuple(sorted(set(roles))),
        secrets=(Secret(digest_of(made.text).hex(), now),),
        created=now,
        models=tuple(dict.fromkeys(models)),
        limits=limits,
        expires=expires,
    )
