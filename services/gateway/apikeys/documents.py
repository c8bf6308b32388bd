"""Keys as people see them: everything but the key."""

import datetime as dt
from typing import Any

import msgspec

from services.gateway.apikeys.key import ApiKey, Secret
from services.gateway.apikeys.ports import Written
from services.gateway.principal import Grant, OwnLimits


def document(key: ApiKey, now: float) -> dict[str, Any]:
    """Return a key as administrators see it: everything but the key."""
    return {
        "id": key.id,
        "tenant": key.tenant,
        "owner": key.owner,
        "roles": list(key.roles),
        "models": list(key.models),
        "limits": limits_document(key.limits),
        "state": key.state(now),
        "created_time": rfc3339(key.created),
        "expire_time": rfc3339(key.expires),
        "changed_time": rfc3339(key.changed),
        "changed_by": key.changed_by or None,
        "version": key.version,
        "secrets": [_secret(secret, now) for secret in key.secrets],
    }


def limits_document(limits: OwnLimits | None) -> dict[str, float]:
    """Return the limits that are set."""
    values = {} if limits is None else msgspec.to_builtins(limits)
    return {name: value for name, value in values.items() if value}


def rfc3339(seconds: int) -> str | None:
    """Return a time as RFC 3339 writes it; None for 0."""
    if not seconds:
        return None
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _secret(secret: Secret, now: float) -> dict[str, Any]:
    return {
        "created_time": rfc3339(secret.created),
        "expire_time": rfc3339(secret.expires),
        "state": "expired" if secret.expired(now) else "active",
    }


def written_document(written: Written, now: float) -> dict[str, Any]:
    """Return a key that was changed, and how safe the change is."""
    return document(written.key, now) | {
        "durability": {
            "safe": written.safe,
            "replicas": written.replicas,
            "confirmed_by_replicas": written.confirmed,
            "on_disk": written.on_disk,
        }
    }


def grant_document(grant: Grant | None) -> dict[str, Any] | None:
    """Return what holders of a managed key are told of it; None for others."""
    if grant is None:
        return None
    return {
        "owner": grant.owner,
        "models": list(grant.models),
        "limits": limits_document(grant.limits),
        "created_time": rfc3339(grant.created),
        "expire_time": rfc3339(grant.expires),
        "rotated": grant.rotated,
    }
