"""What a verified token says: of whom, for whom, and for how long."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from services.common.errors import Unauthenticated
from services.gateway.jws import MAX_TEXT, bad_token
from services.gateway.principal import Principal

API_KEYS: Final = "apikey"
"""The issuer of API keys; no token may call itself that."""
MOST_ROLES: Final = 128
LATEST: Final = 253_402_300_799  # the end of the year 9999
_SEPARATORS: Final = re.compile(r"[\s,]+")


class ClaimPath:
    """Where a claim stands.

    Args:
        name: the claim's name, a path with dots, or a JSON Pointer (RFC 6901). A claim of exactly
            this name goes before the path that it could also be read as.
    """

    __slots__ = ("_name", "_path")

    def __init__(self, name: str) -> None:
        """See the class."""
        self._name = name
        if name.startswith("/"):
            steps = name[1:].split("/")
            self._path = [step.replace("~1", "/").replace("~0", "~") for step in steps]
        elif "://" in name:
            self._path = [name]
        else:
            self._path = name.split(".")

    def __str__(self) -> str:
        """Return the name."""
        return self._name

    def of(self, claims: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any JSON
        """Return the claim's value; None for a claim that is not there, or is null."""
        if self._name in claims:
            return claims[self._name]
        value: Any = claims
        for step in self._path:
            if not isinstance(value, dict):
                return None
            value = value.get(step)
        return value


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """What the claims of a token must be, and what they mean.

    Args:
        issuer: the `iss` that is required; None accepts any.
        audience: the `aud` of which one is required; empty accepts any.
        leeway_s: how far the issuer's clock may be off.
        roles: the claim that holds the roles.
        tenant: the claim that holds the tenant.
        default_tenant: the tenant of tokens without the claim.
        default_roles: the roles of tokens without the claim.
    """

    issuer: str | None = None
    audience: tuple[str, ...] = ()
    leeway_s: float = 30.0
    roles: ClaimPath = ClaimPath("roles")  # noqa: RUF009 - it does not change
    tenant: ClaimPath = ClaimPath("tenant")  # noqa: RUF009 - it does not change
    default_tenant: str = "default"
    default_roles: tuple[str, ...] = ("user",)

    def principal(self, claims: Mapping[str, Any], now: float) -> tuple[Principal, float]:
        """Return whom verified claims speak of, and until when, in Unix seconds.

        Raises:
            Unauthenticated: they are too old or too early, for others, or not what they must be.
        """
        end = self._times(claims, now) + self.leeway_s
        issuer = self._issuer(claims)
        self._check_audience(claims)
        principal = Principal(
            _text(self.tenant.of(claims), str(self.tenant), self.default_tenant),
            issuer,
            _text(claims.get("sub"), "sub"),
            self._roles(claims),
        )
        return principal, end

    def _times(self, claims: Mapping[str, Any], now: float) -> float:
        end = _instant(claims, "exp")
        if end is None:
            raise bad_token("the claim `exp` is missing")
        if now >= end + self.leeway_s:
            msg = "The token has expired. Send a fresh one."
            raise Unauthenticated(msg, reason="EXPIRED_CREDENTIAL")
        start = _instant(claims, "nbf")
        if start is not None and start > now + self.leeway_s:
            raise bad_token("it is not valid yet (`nbf`)")
        issued = _instant(claims, "iat")
        if issued is not None and issued > now + self.leeway_s:
            raise bad_token("it was issued in the future (`iat`); look at the clocks")
        return end

    def _issuer(self, claims: Mapping[str, Any]) -> str:
        issuer = claims.get("iss")
        if self.issuer is not None and issuer != self.issuer:
            missing = "the claim `iss` is missing"
            raise bad_token(missing if issuer is None else "its issuer (`iss`) is not accepted")
        text = _text(issuer, "iss", "jwt")
        if text == API_KEYS:
            raise bad_token("its issuer (`iss`) calls itself what API keys are called")
        return text

    def _check_audience(self, claims: Mapping[str, Any]) -> None:
        if not self.audience:
            return
        meant = claims.get("aud")
        if meant is None:
            raise bad_token("the claim `aud` is missing")
        meant = [meant] if isinstance(meant, str) else meant
        if not isinstance(meant, list) or not all(isinstance(one, str) for one in meant):
            raise bad_token("the claim `aud` must be a text or a list of texts")
        if not set(self.audience).intersection(meant):
            raise bad_token("it is meant for another audience (`aud`)")

    def _roles(self, claims: Mapping[str, Any]) -> tuple[str, ...]:
        roles = self.roles.of(claims)
        if roles is None:
            roles = list(self.default_roles)
        if isinstance(roles, str):
            roles = [role for role in _SEPARATORS.split(roles) if role]
        if (
            not isinstance(roles, list)
            or len(roles) > MOST_ROLES
            or not all(_is_text(role) for role in roles)
        ):
            raise bad_token(
                f"`{self.roles}` must be at most {MOST_ROLES} roles, as a list of texts or as one "
                f"text, each of 1 to {MAX_TEXT} characters"
            )
        return tuple(sorted(set(roles)))


def _instant(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a NumericDate (RFC 7519 §2, fractions are allowed); None without one."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LATEST:
        raise bad_token(f"the claim `{name}` must be a time in seconds since 1970")
    return float(value)


def _text(value: object, name: str, default: str | None = None) -> str:
    if value is None:
        if default is None:
            raise bad_token(f"the claim `{name}` is missing")
        return default
    if not _is_text(value):
        raise bad_token(f"the claim `{name}` must be a text of 1 to {MAX_TEXT} characters")
    return str(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()
