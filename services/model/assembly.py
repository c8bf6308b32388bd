"""From what is declared to routes that can be called, keeping what is known of the targets.

A target that stays declared keeps its breaker, its calls under way and its connections, whatever
else changes around it.
"""

import hashlib
from collections.abc import Callable, Mapping
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from services.common.clock import Clock
from services.model.breaker import Breaker, BreakerPolicy, State
from services.model.call import Headers
from services.model.credential import Credential, bearer, named
from services.model.declaration import (
    Declaration,
    Key,
    ModelDeclaration,
    ProviderDeclaration,
    TargetDeclaration,
)
from services.model.dialects.translation import Translating
from services.model.gate import Gate
from services.model.ports import Provider
from services.model.providers.anthropic import Anthropic
from services.model.providers.openai import OpenAI
from services.model.providers.stub import Stub, StubSettings
from services.model.retry import RetryBudget, RetryPolicy
from services.model.route import Route, Routes, Target
from services.model.upstream import Endpoint, Limits

_HEADERS: Headers = (
    ("accept", "application/json, text/event-stream"),
    ("accept-encoding", "identity"),
    ("content-type", "application/json"),
    ("user-agent", "weaver"),
)

OnState = Callable[[str, str, State, str], None]
"""Is told of a target's breaker: provider, model, new state, reason."""


class _Standing(msgspec.Struct):
    """What is known of a target."""

    breaker: Breaker
    gate: Gate


class Assembly:
    """Builds routes, again and again.

    Args:
        transport: carries every request.
        clock: the service's.
        stub: how stubs behave.
        breakers: when targets rest.
        on_state: is told when a target begins to rest, or serves again.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        clock: Clock,
        stub: StubSettings,
        breakers: BreakerPolicy,
        on_state: OnState,
    ) -> None:
        """See the class."""
        self.credentials: Mapping[str, Credential] = {}
        """By the name of the provider, as last built."""
        self._transport = transport
        self._clock = clock
        self._stub = stub
        self._breakers = breakers
        self._on_state = on_state
        self._standings: dict[tuple[str, str, str], _Standing] = {}
        self._known_keys: dict[Key, Credential] = {}

    def build(self, declaration: Declaration) -> Routes:
        """Return the routes of a declaration.

        Raises:
            CredentialError: a key file cannot be read, or holds no key.
        """
        providers = {one.name: one for one in declaration.providers}
        used = {target.provider for model in declaration.models for target in model.targets}
        keys = {name: self._credential(providers[name].key) for name in sorted(used)}
        built: dict[tuple[str, Limits], Provider] = {}

        def target(text: TargetDeclaration) -> Target:
            provider = providers[text.provider]
            place = (provider.name, text.limits)
            if place not in built:
                built[place] = self._provider(provider, text.limits, keys[provider.name])
            standing = self._standing(provider, text.model)
            return Target(
                built[place], text.model, text.prices, text.weight, standing.breaker, standing.gate
            )

        routes = Routes(
            _route(model, tuple(map(target, model.targets)), _fingerprint(model, providers))
            for model in declaration.models
        )
        self.credentials = keys
        self._known_keys = {providers[name].key: key for name, key in keys.items()}
        return routes

    def _credential(self, key: Key) -> Credential:
        return self._known_keys.get(key) or Credential(key.value, key.path)

    def _standing(self, provider: ProviderDeclaration, model: str) -> _Standing:
        place = (provider.name, provider.endpoint, model)
        standing = self._standings.get(place)
        if standing is None:
            breaker = Breaker(self._breakers)
            breaker.on_change = lambda state, reason: self._on_state(
                provider.name, model, state, reason
            )
            standing = self._standings[place] = _Standing(breaker, Gate())
        standing.gate.policy = provider.gate
        return standing

    def _provider(self, declared: ProviderDeclaration, limits: Limits, key: Credential) -> Provider:
        if declared.kind == "stub":
            stub = Stub(self._clock, self._stub)
            stub.name = declared.name
            return Translating(stub, self._clock)
        if declared.kind == "anthropic":
            endpoint = Endpoint(
                self._transport,
                # Anthropic's own clients write base URLs without the version.
                declared.endpoint.removesuffix("/v1") + "/v1",
                _HEADERS,
                limits,
                credential=key,
                key_header=named("x-api-key"),
            )
            anthropic = Anthropic(endpoint, self._clock, name=declared.name)
            return Translating(anthropic, self._clock)
        azure = declared.kind == "azure"
        endpoint = Endpoint(
            self._transport,
            declared.endpoint,
            _HEADERS,
            limits,
            credential=key,
            key_header=named("api-key") if azure else bearer,
            query=f"api-version={declared.api_version}" if azure else "",
        )
        prefix = _deployment if azure and not urlsplit(declared.endpoint).path else None
        openai = OpenAI(
            endpoint,
            self._clock,
            ask_usage=declared.stream_usage,
            name=declared.name,
            prefix=prefix,
        )
        return Translating(openai, self._clock, declared.limit_field)


def _deployment(model: str) -> str:
    # Where a pattern lets clients choose the name, it must not lead to another path.
    return f"/openai/deployments/{quote(model, safe='')}"


def _fingerprint(model: ModelDeclaration, providers: Mapping[str, ProviderDeclaration]) -> bytes:
    """Return what is the same as long as the same is asked of the same."""
    asked = [
        (one.name, one.kind, one.endpoint, one.api_version, target.model)
        for target in model.targets
        for one in (providers[target.provider],)
    ]
    text = msgspec.json.encode((model.name, sorted(model.capabilities), asked))
    return hashlib.sha256(text).digest()


def _route(model: ModelDeclaration, targets: tuple[Target, ...], fingerprint: bytes) -> Route:
    budget = RetryBudget()
    if model.retry_share is not None:
        budget = RetryBudget(model.retry_share)
    return Route(
        model.name,
        targets,
        context_tokens=model.context_tokens,
        max_output_tokens=model.max_output_tokens,
        roles=model.roles,
        capabilities=model.capabilities,
        retries=None if model.retries is None else RetryPolicy(model.retries),
        total_s=model.total_s,
        budget=budget,
        fingerprint=fingerprint,
    )
