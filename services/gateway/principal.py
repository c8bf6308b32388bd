"""Who a request is made for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    Args:
        tenant: what limits, cache keys and audit filters are scoped by.
        issuer: who vouches for the subject: `apikey`, or the token's `iss`.
        subject: the subject within the issuer; an API key's id, never the key.
        roles: sorted.
    """

    tenant: str
    issuer: str
    subject: str
    roles: tuple[str, ...] = ()
