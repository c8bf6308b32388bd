"""What a process was started with, so that a change of configuration shows in the audit log.

Secrets are left out altogether. Other values are not shown but digested: a change is visible, and
an operator who knows a value can check it.
"""

from collections.abc import Mapping
from hashlib import sha256

import msgspec
from pydantic import SecretStr

from services.common.settings import CommonSettings

_SHORT = 12


def start_attributes(service: str, settings: CommonSettings) -> dict[str, str]:
    """Return the attributes of a `service_started` record.

    `settings_sha256` covers every setting that is no secret, set or default; `settings` has the
    beginning of a digest for each that is not the default.
    """
    values = _values(settings)
    defaults = _defaults(settings)
    return {
        "service": service,
        "version": settings.otel_service_version,
        "environment": settings.environment,
        "settings_sha256": _digest(values),
        "settings": " ".join(
            f"{name}={_digest(value)[:_SHORT]}"
            for name, value in sorted(values.items())
            if value != defaults.get(name)
        ),
    }


def _values(settings: CommonSettings) -> dict[str, str]:
    """Return every setting that is no secret, by its variable."""
    return {
        str(field.validation_alias): _text(getattr(settings, name))
        for name, field in type(settings).model_fields.items()
        if "SecretStr" not in str(field.annotation)
    }


def _defaults(settings: CommonSettings) -> dict[str, str]:
    return {
        str(field.validation_alias): _text(
            _like(getattr(settings, name), field.get_default(call_default_factory=True))
        )
        for name, field in type(settings).model_fields.items()
        if not isinstance(field.default, SecretStr) and not field.is_required()
    }


def _like(value: object, default: object) -> object:
    """Return a default as validation makes it: 30 days are 30.0 where days are fractional."""
    return float(default) if isinstance(value, float) and isinstance(default, int) else default


def _text(value: object) -> str:
    """Return a value in one spelling: sets in order, paths and the rest as text."""
    if isinstance(value, frozenset | set):
        value = sorted(map(str, value))
    if isinstance(value, tuple):
        value = list(value)
    return str(value)


def _digest(value: str | Mapping[str, str]) -> str:
    return sha256(msgspec.json.encode(value, order="sorted")).hexdigest()
