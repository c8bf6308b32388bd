"""JSON Web Tokens: what is believed of one, and what is not."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from services.common.clock import Clock
from services.common.errors import Unauthenticated
from services.gateway.principal import Principal

MAX_CACHED_TOKENS = 10_000
MAX_CLAIM = 256
LEEWAY_S = 30


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """What a JWT must be.

    Args:
        keys: the public keys, PEM, by key id; the key of tokens without `kid` is under "".
        algorithms: the algorithms that are accepted, and no others.
        issuer: the `iss` that is required; None accepts any.
        audience: the `aud` of which one is required; empty accepts any.
        roles_claim: the claim that holds the roles.
        tenant_claim: the claim that holds the tenant.
        default_tenant: the tenant of tokens without the claim.
        default_roles: the roles of tokens without the claim.
    """

    keys: Mapping[str, bytes]
    algorithms: tuple[str, ...] = ("RS256",)
    issuer: str | None = None
    audience: tuple[str, ...] = ()
    roles_claim: str = "roles"
    tenant_claim: str = "tenant"
    default_tenant: str = "default"
    default_roles: tuple[str, ...] = ("user",)


class Tokens:
    """Verifies JWTs; a verified one is remembered until it expires.

    Args:
        policy: what a token must be.
        clock: for the expiry of remembered tokens.
    """

    def __init__(self, policy: TokenPolicy, clock: Clock) -> None:
        """See the class."""
        self._policy = policy
        self._clock = clock
        self._verified: dict[bytes, tuple[float, Principal]] = {}

    async def principal(self, token: str) -> Principal:
        """Verify a token and return its principal.

        Raises:
            Unauthenticated: the token is malformed, forged, expired or not meant for us.
        """
        digest = hashlib.sha256(token.encode()).digest()
        known = self._verified.get(digest)
        if known is not None and self._clock.time() < known[0]:
            return known[1]
        claims = self._verify(token)
        principal = Principal(
            _text(claims, self._policy.tenant_claim, self._policy.default_tenant),
            _text(claims, "iss", "jwt"),
            _text(claims, "sub", ""),
            _roles(claims.get(self._policy.roles_claim, list(self._policy.default_roles))),
        )
        if len(self._verified) >= MAX_CACHED_TOKENS:
            self._verified.clear()
        self._verified[digest] = (float(claims["exp"]) + LEEWAY_S, principal)
        return principal

    def _verify(self, token: str) -> dict[str, Any]:
        policy = self._policy
        try:
            key_id = jwt.get_unverified_header(token).get("kid", "")
            key = policy.keys.get(str(key_id)) or policy.keys.get("")
            if key is None:
                raise _bad_token("it is signed with a key that is not known here")
            return jwt.decode(
                token,
                key,
                algorithms=list(policy.algorithms),
                audience=policy.audience or None,
                issuer=policy.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "sub"], "verify_aud": bool(policy.audience)},
            )
        except jwt.ExpiredSignatureError:
            msg = "The token has expired. Send a fresh one."
            raise Unauthenticated(msg, reason="EXPIRED_CREDENTIAL") from None
        except jwt.InvalidSignatureError:
            raise _bad_token("its signature does not verify") from None
        except jwt.InvalidAlgorithmError:
            allowed = ", ".join(policy.algorithms)
            raise _bad_token(f"only these algorithms are accepted: {allowed}") from None
        except jwt.InvalidAudienceError:
            raise _bad_token("it is meant for another audience (`aud`)") from None
        except jwt.InvalidIssuerError:
            raise _bad_token("its issuer (`iss`) is not accepted here") from None
        except jwt.MissingRequiredClaimError as error:
            raise _bad_token(f"the claim `{error.claim}` is missing") from None
        except (jwt.PyJWTError, ValueError, TypeError):
            raise _bad_token("it is malformed") from None


def _bad_token(why: str) -> Unauthenticated:
    return Unauthenticated(f"The token is not valid here: {why}.")


def _text(claims: Mapping[str, Any], claim: str, default: str) -> str:
    value = claims.get(claim, default)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_CLAIM or not value.isprintable():
        raise _bad_token(f"the claim `{claim}` must be a text of 1 to {MAX_CLAIM} characters")
    return value


def _roles(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list) or not all(
        isinstance(role, str) and role.isprintable() for role in value
    ):
        raise _bad_token("its roles must be a list of texts")
    return tuple(sorted(set(value)))
