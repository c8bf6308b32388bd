"""From settings to what verifies tokens."""

from contextlib import AsyncExitStack

from services.common.clock import Clock
from services.common.settings import SettingsError, pem
from services.gateway.claims import ClaimPath, ClaimRules
from services.gateway.configuration_reports import ConfigurationReports
from services.gateway.jwks import IssuerKeys
from services.gateway.jwks_client import JWKSClient
from services.gateway.key_files import KeyFiles
from services.gateway.key_ring import KeyRing
from services.gateway.settings import GatewaySettings
from services.gateway.tokens import Tokens
from services.gateway.verification_keys import KeyRefused, from_pem


def open_tokens(
    settings: GatewaySettings,
    stack: AsyncExitStack,
    clock: Clock,
    observer: ConfigurationReports,
) -> Tokens:
    """Return what verifies tokens; the stack stops what follows their keys.

    Raises:
        SettingsError: a key is none; the message names the variable.
    """
    ring = KeyRing()
    if settings.jwt_public_key:
        try:
            keys = from_pem(pem(settings.jwt_public_key))
        except KeyRefused as refused:
            msg = f"WEAVER_JWT_PUBLIC_KEY: {refused}."
            raise SettingsError(msg) from None
        accepted = {algorithm for key in keys for algorithm in key.algorithms}
        if accepted.isdisjoint(settings.jwt_algorithms):
            msg = (
                f"WEAVER_JWT_ALGORITHMS: the key in WEAVER_JWT_PUBLIC_KEY is for "
                f"{', '.join(sorted(accepted))}, and none of these is accepted."
            )
            raise SettingsError(msg)
        ring.put("setting", keys)
    if settings.jwt_keys_path is not None:
        files = KeyFiles(settings.jwt_keys_path, ring, observer)
        try:
            files.first()
        except KeyRefused as refused:
            msg = f"WEAVER_JWT_KEYS_PATH: {refused}."
            raise SettingsError(msg) from None
        files.start()
        stack.push_async_callback(files.close)
    issuer = _issuer(settings, stack, ring, clock, observer) if settings.jwt_jwks_url else None
    rules = ClaimRules(
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        leeway_s=settings.jwt_leeway_seconds,
        roles=ClaimPath(settings.jwt_roles_claim),
        tenant=ClaimPath(settings.jwt_tenant_claim),
        default_tenant=settings.default_tenant,
        default_roles=settings.jwt_default_roles,
    )
    return Tokens(ring, clock, algorithms=settings.jwt_algorithms, rules=rules, issuer=issuer)


def _issuer(
    settings: GatewaySettings,
    stack: AsyncExitStack,
    ring: KeyRing,
    clock: Clock,
    observer: ConfigurationReports,
) -> IssuerKeys:
    authority = settings.jwt_jwks_ca
    try:
        client = JWKSClient(
            settings.jwt_jwks_url or "", pem(authority).decode() if authority else None
        )
    except ValueError as error:
        msg = f"WEAVER_JWT_JWKS_CA: {error}."
        raise SettingsError(msg) from None
    stack.push_async_callback(client.close)
    issuer = IssuerKeys(
        client.fetch,
        ring,
        clock,
        observer,
        refresh_s=settings.jwt_jwks_refresh_seconds,
        least_s=settings.jwt_jwks_min_interval_seconds,
    )
    stack.push_async_callback(issuer.close)
    observer.watch_age(lambda: issuer.age_s)
    issuer.start()
    return issuer
