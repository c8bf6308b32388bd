"""What administrators ask for: checked whole, and named field by field, before anything is done."""

import math
import re
from collections.abc import Collection, Sequence
from typing import Final

import msgspec

from services.common.errors import InvalidArgument
from services.gateway.apikeys import text
from services.gateway.apikeys.key import ApiKey
from services.gateway.principal import OwnLimits

LONGEST_NAME: Final = 256
MOST_ROLES: Final = 32
MOST_MODELS: Final = 64
LONGEST_LIFE_S: Final = 100 * 365 * 86_400
LONGEST_OVERLAP_S: Final = 90 * 86_400
DEFAULT_OVERLAP_S: Final = 86_400
_MODEL: Final = re.compile(r"[A-Za-z0-9._:/@+*-]{1,128}", re.ASCII)
_MOST: Final = {
    "requests_per_second": 1_000_000,
    "burst": 1_000_000,
    "tokens_per_minute": 1_000_000_000,
    "tokens_per_day": 1_000_000_000,
    "cost_micros_per_day": 10**15,
    "cost_micros_per_month": 10**15,
    "concurrency": 1_000_000,
}
_LEAST_RATE: Final = 0.001


class NewKey(msgspec.Struct, frozen=True):
    """A key that is to be made; `life_s` is how long it is accepted, 0 for without end."""

    tenant: str
    owner: str
    roles: tuple[str, ...]
    models: tuple[str, ...] = ()
    limits: OwnLimits = OwnLimits()
    life_s: int = 0


class Edit(msgspec.Struct, frozen=True):
    """What is to be changed of a key; None leaves it as it is."""

    owner: str | None = None
    roles: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    limits: OwnLimits | None = None
    life_s: int | None = None

    def applied(self, key: ApiKey, now: int) -> ApiKey:
        """Return the key with it."""
        expires = key.expires
        if self.life_s is not None:
            expires = now + self.life_s if self.life_s else 0
        return msgspec.structs.replace(
            key,
            owner=key.owner if self.owner is None else self.owner,
            roles=key.roles if self.roles is None else tuple(sorted(set(self.roles))),
            models=key.models if self.models is None else tuple(dict.fromkeys(self.models)),
            limits=key.limits if self.limits is None else self.limits,
            expires=expires,
        )


def check_new(order: NewKey, known_roles: Collection[str]) -> NewKey:
    """Return the order if it can be carried out.

    Raises:
        InvalidArgument: naming the field.
    """
    _check_name("tenant", order.tenant)
    check_edit(
        Edit(order.owner, order.roles, order.models, order.limits, order.life_s), known_roles
    )
    return order


def check_edit(edit: Edit, known_roles: Collection[str]) -> Edit:
    """Return the edit if it can be made.

    Raises:
        InvalidArgument: naming the field.
    """
    if edit.owner is not None:
        _check_name("owner", edit.owner)
    if edit.roles is not None:
        _check_roles(edit.roles, known_roles)
    if edit.models is not None:
        _check_models(edit.models)
    if edit.limits is not None:
        _check_limits(edit.limits)
    if edit.life_s is not None and not 0 <= edit.life_s <= LONGEST_LIFE_S:
        raise InvalidArgument.of_field(
            "time_to_live_seconds", f"must be from 0 (without end) to {LONGEST_LIFE_S}."
        )
    return edit


def check_id(id_: str) -> str:
    """Return an id if it could be one.

    Raises:
        InvalidArgument: it could not, as a key's text that was sent in its place by mistake.
    """
    if not text.is_id(id_):
        raise InvalidArgument.of_field(
            "id", "must be `key_` and 12 letters or digits; never send the key itself here."
        )
    return id_


def check_overlap(overlap_s: int, *, none: bool) -> int:
    """Return how long the old secret is accepted beside the new one.

    Raises:
        InvalidArgument: too long, or both given and not wanted.
    """
    if none:
        if overlap_s:
            raise InvalidArgument.of_field("without_overlap", "does not go with overlap_seconds.")
        return 0
    if not 0 <= overlap_s <= LONGEST_OVERLAP_S:
        raise InvalidArgument.of_field("overlap_seconds", f"must be from 0 to {LONGEST_OVERLAP_S}.")
    return overlap_s or DEFAULT_OVERLAP_S


def _check_name(field: str, value: str) -> None:
    if not 0 < len(value) <= LONGEST_NAME or not value.isprintable() or value != value.strip():
        raise InvalidArgument.of_field(
            field, f"must be 1 to {LONGEST_NAME} printable characters without spaces around them."
        )
    if text.PREFIX in value and re.search(text.PATTERN, value):
        raise InvalidArgument.of_field(field, "holds an API key; never send one here.")


def _check_roles(roles: Sequence[str], known: Collection[str]) -> None:
    if not 0 < len(roles) <= MOST_ROLES:
        raise InvalidArgument.of_field("roles", f"must be 1 to {MOST_ROLES} roles.")
    for role in roles:
        if role not in known:
            allowed = ", ".join(sorted(known))
            raise InvalidArgument.of_field("roles", f"{role[:40]!r} is no role here: {allowed}.")


def _check_models(models: Sequence[str]) -> None:
    if len(models) > MOST_MODELS:
        raise InvalidArgument.of_field("models", f"must be at most {MOST_MODELS} patterns.")
    for pattern in models:
        if _MODEL.fullmatch(pattern) is None:
            raise InvalidArgument.of_field(
                "models",
                f"{pattern[:40]!r} is no pattern: 1 to 128 of A-Z a-z 0-9 . _ : / @ + - and `*` "
                "for any text.",
            )


def _check_limits(limits: OwnLimits) -> None:
    for name, most in _MOST.items():
        value = getattr(limits, name)
        if not (math.isfinite(value) and 0 <= value <= most):
            raise InvalidArgument.of_field(f"limits.{name}", f"must be from 0 (none) to {most}.")
    if 0 < limits.requests_per_second < _LEAST_RATE:
        raise InvalidArgument.of_field(
            "limits.requests_per_second", f"must be at least {_LEAST_RATE}, or 0 for none."
        )
    if limits.burst and not limits.requests_per_second:
        raise InvalidArgument.of_field("limits.burst", "needs requests_per_second beside it.")
