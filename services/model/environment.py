"""What the environment declares: one public model, its provider, and the one to fall back to."""

from services.model.declaration import (
    Declaration,
    Key,
    Kind,
    ModelDeclaration,
    ProviderDeclaration,
    TargetDeclaration,
)
from services.model.gate import GatePolicy
from services.model.route_file import AZURE_VERSION, ENDPOINTS
from services.model.settings import ModelSettings
from services.model.upstream import Limits
from services.model.usage import Prices


def limits(settings: ModelSettings) -> Limits:
    """Return the deployment's time-outs and sizes."""
    return Limits(
        settings.connect_timeout_ms / 1000,
        settings.first_byte_timeout_ms / 1000,
        settings.idle_timeout_ms / 1000,
        settings.max_answer_bytes,
    )


def gate(settings: ModelSettings) -> GatePolicy:
    """Return how many calls at once a target gets."""
    return GatePolicy(settings.max_connections, settings.queue, settings.queue_wait_ms / 1000)


def declared(settings: ModelSettings) -> Declaration:
    """Return the provider, the fallback and the public model of the environment."""
    if not settings.declares_model:
        return Declaration()
    first = _provider(
        settings,
        settings.provider,
        settings.endpoint,
        settings.api_version,
        Key(settings.api_key.get_secret_value().strip(), settings.api_key_file),
    )
    prices = Prices(settings.input_price_micros, settings.output_price_micros)
    providers = [first]
    targets = [TargetDeclaration(first.name, settings.model_name, prices, limits(settings))]
    if settings.fallback_provider:
        second = _provider(
            settings,
            settings.fallback_provider,
            settings.fallback_endpoint,
            settings.fallback_api_version,
            Key(
                settings.fallback_api_key.get_secret_value().strip(), settings.fallback_api_key_file
            ),
            taken=first.name,
        )
        dear = Prices(settings.fallback_input_price_micros, settings.fallback_output_price_micros)
        name = settings.fallback_name or settings.model_name
        providers.append(second)
        targets.append(TargetDeclaration(second.name, name, dear, limits(settings)))
    model = ModelDeclaration(
        settings.model_name,
        tuple(targets),
        context_tokens=settings.context_tokens,
        max_output_tokens=settings.max_output_tokens,
    )
    return Declaration(tuple(providers), (model,))


def _provider(  # noqa: PLR0913 - what the environment says of one
    settings: ModelSettings,
    kind: Kind,
    endpoint: str,
    api_version: str,
    key: Key,
    *,
    taken: str = "",
) -> ProviderDeclaration:
    if kind == "openai" and api_version:
        kind = "azure"
    return ProviderDeclaration(
        f"{kind}-fallback" if kind == taken else kind,
        kind,
        endpoint or ENDPOINTS.get(kind, ""),
        key,
        (api_version or AZURE_VERSION) if kind == "azure" else "",
        settings.stream_usage,
        gate(settings),
        settings.output_limit,
    )
