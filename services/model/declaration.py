"""What operators declare: providers, and the public models with their targets. Values only."""

import hashlib
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from services.model.gate import GatePolicy
from services.model.upstream import Limits
from services.model.usage import Prices

Kind = Literal["stub", "openai", "azure", "anthropic"]
Capability = Literal[
    "audio",
    "documents",
    "embeddings",
    "images",
    "json_schema",
    "logprobs",
    "reasoning",
    "stream",
    "tools",
]


_OF_OPENAI: Final = (".openai.com", ".azure.com")


class Key(msgspec.Struct, frozen=True):
    """Where a provider's key is: itself, or a file. Never shown, and no part of a version."""

    value: str = ""
    path: Path | None = None

    def __repr__(self) -> str:
        """Show where, never what."""
        return f"Key(path={self.path})"


class ProviderDeclaration(msgspec.Struct, frozen=True):
    """A vendor's API at an address.

    Args:
        name: in records, metrics and health.
        kind: how it is spoken to.
        endpoint: its base URL, without a slash at its end.
        key: where its key is.
        api_version: Azure's.
        stream_usage: whether streams are asked for their usage.
        gate: how many calls at once each of its targets gets.
        output_limit: the field in which a translated request says how long an answer may be;
            empty for the one that OpenAI itself wants at OpenAI and Azure, and the one that every
            other server knows elsewhere: several ignore OpenAI's newer name without a word.
    """

    name: str
    kind: Kind
    endpoint: str = ""
    key: Key = Key()
    api_version: str = ""
    stream_usage: bool = True
    gate: GatePolicy = GatePolicy()
    output_limit: Literal["", "max_tokens", "max_completion_tokens"] = ""

    @property
    def limit_field(self) -> str:
        """The field, whoever says so."""
        if self.output_limit:
            return self.output_limit
        host = urlsplit(self.endpoint).hostname or ""
        of_openai = self.kind != "openai" or host.endswith(_OF_OPENAI)
        return "max_completion_tokens" if of_openai else "max_tokens"


class TargetDeclaration(msgspec.Struct, frozen=True):
    """One place where a model is asked."""

    provider: str
    model: str
    prices: Prices
    limits: Limits
    weight: int = 0


class ModelDeclaration(msgspec.Struct, frozen=True):
    """A public model, or a pattern of names; see `services.model.route.Route`."""

    name: str
    targets: tuple[TargetDeclaration, ...]
    context_tokens: int = 0
    max_output_tokens: int = 0
    roles: tuple[str, ...] = ()
    capabilities: tuple[Capability, ...] = ()
    retries: int | None = None
    retry_share: float | None = None
    total_s: float | None = None


class Declaration(msgspec.Struct, frozen=True):
    """Everything that is declared; of two things with one name the later holds."""

    providers: tuple[ProviderDeclaration, ...] = ()
    models: tuple[ModelDeclaration, ...] = ()

    @property
    def version(self) -> str:
        """A name for the content, keys left out."""
        providers = [msgspec.structs.replace(one, key=Key()) for one in self.providers]
        text = msgspec.json.encode((providers, self.models))
        return hashlib.sha256(text).hexdigest()[:12]
