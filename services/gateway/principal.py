"""Who a request is made for."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class OwnLimits:
    """The limits that a key brings along; 0 means none, and what holds for everybody applies.

    Args:
        requests_per_second: in the long run.
        burst: how many requests at once; 0 with a rate: what comes back in a second.
        tokens_per_minute: prompt and answer.
        tokens_per_day: likewise, by calendar day (UTC).
        cost_micros_per_day: money, in millionths.
        cost_micros_per_month: likewise, by calendar month.
        concurrency: requests in flight.
    """

    requests_per_second: float = 0.0
    burst: int = 0
    tokens_per_minute: int = 0
    tokens_per_day: int = 0
    cost_micros_per_day: int = 0
    cost_micros_per_month: int = 0
    concurrency: int = 0


NO_LIMITS = OwnLimits()


@dataclass(frozen=True, slots=True)
class Grant:
    """What a managed API key says of its holder beyond who they are.

    Args:
        owner: who answers for the key.
        models: the models that it may use, as patterns; empty for those of its roles.
        limits: its own; None for those of everybody.
        created: Unix seconds.
        expires: Unix seconds at which this key's text is accepted no more; 0 for without end.
        rotated: whether a newer secret has taken the place of the one that was sent.
        version: of the key.
    """

    owner: str
    models: tuple[str, ...] = ()
    limits: OwnLimits | None = None
    created: int = 0
    expires: int = 0
    rotated: bool = False
    version: int = 0

    def may_use(self, model: str) -> bool:
        """Say whether the key is for a model."""
        return not self.models or _matches(self.models, model)


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    Args:
        tenant: what limits, cache keys and audit filters are scoped by.
        issuer: who vouches for the subject: `apikey`, or the token's `iss`.
        subject: the subject within the issuer; an API key's id, never the key.
        roles: sorted.
        grant: what their managed API key says beyond that; None for others.
    """

    tenant: str
    issuer: str
    subject: str
    roles: tuple[str, ...] = ()
    # Whoever is the same by the rest is the same, so that looking them up costs nothing more.
    grant: Grant | None = field(default=None, compare=False)

    def may_use(self, model: str) -> bool:
        """Say whether the principal's key, where it has one, is for a model."""
        return self.grant is None or self.grant.may_use(model)


@lru_cache(maxsize=10_000)
def _matches(patterns: tuple[str, ...], model: str) -> bool:
    return any(fnmatchcase(model, pattern) for pattern in patterns)
