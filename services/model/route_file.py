"""The route file: providers and public models in YAML, checked whole before any of it counts.

What the environment declares stays beside it; a name that stands in both is the file's. Keys never
stand in it: it names the file or the variable that holds one.
"""

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final, Literal, NoReturn
from urllib.parse import urlsplit

import msgspec

from services.common import operator_file
from services.common.operator_file import OperatorFileError
from services.model.declaration import (
    Capability,
    Declaration,
    Key,
    Kind,
    ModelDeclaration,
    ProviderDeclaration,
    TargetDeclaration,
)
from services.model.gate import GatePolicy
from services.model.upstream import Limits
from services.model.usage import Prices

MAX_TARGETS: Final = 16
MAX_MODELS: Final = 1_000
MOST_MICROS: Final = 10**12
ENDPOINTS: Final[Mapping[str, str]] = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
}
AZURE_VERSION: Final = "2024-10-21"
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_MODEL: Final = re.compile(r"[!-)+-~]{0,200}\*?[!-)+-~]{0,200}")
_VERSION: Final = re.compile(r"[A-Za-z0-9._-]{1,40}")
_ROLE: Final = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
_LONGEST_MS: Final = 3_600_000


class RouteFileError(Exception):
    """The file declares no routes; the message says where and what is allowed."""


class _ProviderText(msgspec.Struct, forbid_unknown_fields=True):
    kind: Kind
    endpoint: str | None = None
    key_file: str | None = None
    key_env: str | None = None
    api_version: str | None = None
    stream_usage: bool | None = None
    output_limit: Literal["max_tokens", "max_completion_tokens"] | None = None
    calls_at_once: int | None = None
    queue: int | None = None
    queue_wait_ms: int | None = None


class _PriceText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    input: int | float | str = 0
    output: int | float | str = 0
    cached_input: int | float | str | None = None
    cache_write: int | float | str | None = None
    version: str = ""


class _TimeoutsText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    connect_ms: int | None = None
    first_byte_ms: int | None = None
    idle_ms: int | None = None
    total_ms: int | None = None


class _TargetText(msgspec.Struct, forbid_unknown_fields=True):
    provider: str
    model: str | None = None
    weight: int = 0
    price: _PriceText | None = None
    timeouts: _TimeoutsText = _TimeoutsText()


class _ModelText(msgspec.Struct, forbid_unknown_fields=True):
    targets: list[_TargetText]
    context_tokens: int = 0
    max_output_tokens: int = 0
    roles: list[str] = []
    capabilities: list[Capability] = []
    retries: int | None = None
    retry_share: float | None = None
    timeouts: _TimeoutsText = _TimeoutsText()
    price: _PriceText = _PriceText()


class _FileText(msgspec.Struct, forbid_unknown_fields=True):
    version: Literal[1]
    providers: dict[str, _ProviderText] = {}
    models: dict[str, _ModelText] = {}


def parse(
    text: bytes,
    own: Declaration,
    limits: Limits,
    gate: GatePolicy,
    environment: Mapping[str, str],
) -> Declaration:
    """Return what a file declares, after what the environment declares.

    Args:
        text: the file's content.
        own: what the environment declares.
        limits: the deployment's time-outs and sizes, where the file says nothing.
        gate: the deployment's calls at once, likewise.
        environment: where `key_env` is looked up.

    Raises:
        RouteFileError: it declares no routes.
    """
    try:
        file = operator_file.parse(text, _FileText)
    except OperatorFileError as error:
        raise RouteFileError(str(error)) from None
    providers = {one.name: one for one in own.providers}
    for name, provider in file.providers.items():
        path = f"providers.{name}"
        if not _NAME.fullmatch(name):
            _fail(path, "must be 1 to 40 of a-z, 0-9, - and _, a letter first")
        providers[name] = _provider(name, provider, path, gate, environment)
    if not file.models:
        _fail("models", "is missing or empty")
    if len(file.models) > MAX_MODELS:
        _fail("models", f"must be at most {MAX_MODELS}")
    models = {one.name: one for one in own.models}
    for name, model in file.models.items():
        models[name] = _model(name, model, providers, limits)
    return Declaration(tuple(providers.values()), tuple(models.values()))


def check_endpoint(value: str) -> str:
    """Return a base URL without the slash at its end.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        msg = "must be an http or https URL, such as https://api.openai.com/v1"
        raise ValueError(msg)
    if parts.username or parts.password or parts.query or parts.fragment:
        msg = "must hold no credentials, query or fragment"
        raise ValueError(msg)
    return value.rstrip("/")


def _provider(
    name: str,
    text: _ProviderText,
    path: str,
    gate: GatePolicy,
    environment: Mapping[str, str],
) -> ProviderDeclaration:
    endpoint = text.endpoint or ENDPOINTS.get(text.kind, "")
    if text.kind == "azure" and not endpoint:
        _fail(f"{path}.endpoint", "is missing: https://<resource>.openai.azure.com")
    if endpoint:
        try:
            endpoint = check_endpoint(endpoint)
        except ValueError as error:
            _fail(f"{path}.endpoint", str(error))
    if text.api_version is not None and text.kind != "azure":
        _fail(f"{path}.api_version", "belongs to kind: azure")
    if text.api_version is not None and not _VERSION.fullmatch(text.api_version):
        _fail(f"{path}.api_version", f"must be a version, such as {AZURE_VERSION}")
    key = _key(text, path, environment)
    if endpoint in ENDPOINTS.values() and key == Key():
        _fail(path, "needs key_file or key_env: the vendor answers nobody without a key")
    in_flight = _between(text.calls_at_once, 1, 100_000, f"{path}.calls_at_once")
    queue = _between(text.queue, 0, 100_000, f"{path}.queue")
    wait_ms = _between(text.queue_wait_ms, 1, 600_000, f"{path}.queue_wait_ms")
    changed: dict[str, Any] = {"in_flight": in_flight, "queue": queue}
    changed["wait_s"] = None if wait_ms is None else wait_ms / 1000
    known = {field: value for field, value in changed.items() if value is not None}
    return ProviderDeclaration(
        name,
        text.kind,
        endpoint,
        key,
        text.api_version or (AZURE_VERSION if text.kind == "azure" else ""),
        text.stream_usage is not False,
        msgspec.structs.replace(gate, **known),
        text.output_limit or "",
    )


def _key(text: _ProviderText, path: str, environment: Mapping[str, str]) -> Key:
    if text.key_file is not None and text.key_env is not None:
        _fail(path, "must have key_file or key_env, not both")
    if text.key_env is None:
        return Key(path=Path(text.key_file) if text.key_file else None)
    value = environment.get(text.key_env, "").strip()
    if not value:
        _fail(f"{path}.key_env", f"names {text.key_env}, which is not set")
    return Key(value)


def _model(
    name: str, text: _ModelText, providers: Mapping[str, ProviderDeclaration], limits: Limits
) -> ModelDeclaration:
    path = f"models.{name}"
    if not name or not _MODEL.fullmatch(name):
        _fail(path, "must be 1 to 200 printable characters without spaces, with at most one *")
    if not 1 <= len(text.targets) <= MAX_TARGETS:
        _fail(f"{path}.targets", f"must be 1 to {MAX_TARGETS}")
    for role in text.roles:
        if not _ROLE.fullmatch(role):
            _fail(f"{path}.roles", f"{role[:40]!r} is no name of a role")
    total_ms = _between(text.timeouts.total_ms, 1, 24 * _LONGEST_MS, f"{path}.timeouts.total_ms")
    if text.retry_share is not None and not 0 <= text.retry_share <= 1:
        _fail(f"{path}.retry_share", "must be from 0 to 1")
    return ModelDeclaration(
        name,
        tuple(
            _target(name, one, f"{path}.targets[{index}]", text, providers, limits)
            for index, one in enumerate(text.targets)
        ),
        _between(text.context_tokens, 0, 2**40, f"{path}.context_tokens") or 0,
        _between(text.max_output_tokens, 0, 2**40, f"{path}.max_output_tokens") or 0,
        tuple(sorted(set(text.roles))),
        tuple(sorted(set(text.capabilities))),
        _between(text.retries, 0, 10, f"{path}.retries"),
        text.retry_share,
        None if total_ms is None else total_ms / 1000,
    )


def _target(  # noqa: PLR0913, PLR0917 - what a target inherits from
    name: str,
    text: _TargetText,
    path: str,
    model: _ModelText,
    providers: Mapping[str, ProviderDeclaration],
    limits: Limits,
) -> TargetDeclaration:
    if text.provider not in providers:
        _fail(f"{path}.provider", f"must be one of {', '.join(sorted(providers)) or 'providers'}")
    asked = name if text.model is None else text.model
    if not asked or not _MODEL.fullmatch(asked) or ("*" in asked and "*" not in name):
        _fail(f"{path}.model", "must be a name; a * only where the public name has one")
    if text.timeouts.total_ms is not None:
        _fail(f"{path}.timeouts.total_ms", "belongs to the model: it spans all targets")
    for times, where in ((model.timeouts, path.rpartition(".")[0]), (text.timeouts, path)):
        limits = _limits(limits, times, f"{where}.timeouts")
    _between(text.weight, 0, 1_000, f"{path}.weight")
    price = text.price or model.price
    return TargetDeclaration(
        text.provider, asked, _prices(price, f"{path}.price"), limits, text.weight
    )


def _limits(limits: Limits, text: _TimeoutsText, path: str) -> Limits:
    for field in ("connect", "first_byte", "idle"):
        value = _between(getattr(text, f"{field}_ms"), 1, _LONGEST_MS, f"{path}.{field}_ms")
        if value is not None:
            limits = msgspec.structs.replace(limits, **{f"{field}_s": value / 1000})
    return limits


def _prices(text: _PriceText, path: str) -> Prices:
    if text.version and not _VERSION.fullmatch(text.version):
        _fail(f"{path}.version", "must be 1 to 40 of letters, digits, dot, - and _")
    return Prices(
        _micros(text.input, f"{path}.input") or 0,
        _micros(text.output, f"{path}.output") or 0,
        _micros(text.cached_input, f"{path}.cached_input"),
        _micros(text.cache_write, f"{path}.cache_write"),
        text.version,
    )


def _micros(value: float | str | None, path: str) -> int | None:
    if value is None:
        return None
    try:
        micros = Decimal(str(value)) * 1_000_000
    except InvalidOperation:
        _fail(path, "must be an amount of money for a million tokens")
    if not micros.is_finite() or micros != int(micros) or not 0 <= micros <= MOST_MICROS:
        _fail(path, "must be an amount of money for a million tokens, with at most 6 decimals")
    return int(micros)


def _between(value: int | None, least: int, most: int, path: str) -> int | None:
    if value is not None and not least <= value <= most:
        _fail(path, f"must be from {least} to {most}")
    return value


def _fail(path: str, problem: str) -> NoReturn:
    msg = f"`{path}` {problem}"
    raise RouteFileError(msg)
