"""Figures about providers, by the names that the operators' dashboards use.

Label values are bounded: a provider or model that was not configured is counted as `other`.
"""

from collections.abc import Collection
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram

from services.model.call import Usage

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)
_OTHER = "other"


class ProviderMetrics:
    """Counts calls, time and tokens.

    Args:
        registry: the service's own.
        known: each provider with its model, as configured.
    """

    def __init__(self, registry: CollectorRegistry, known: Collection[tuple[str, str]]) -> None:
        """See the class."""
        self._known = frozenset(known)
        labels = ("provider", "model")
        self._calls = Counter(
            "llm_api_calls",
            "Calls of a provider, each try counted.",
            (*labels, "status"),
            registry=registry,
        )
        self._duration = Histogram(
            "llm_api_duration_seconds",
            "How long a provider took, to the end of its answer.",
            labels,
            registry=registry,
            buckets=_SECONDS,
        )
        self._first_byte = Histogram(
            "llm_time_to_first_byte_seconds",
            "How long a provider took to the first event of a stream.",
            labels,
            registry=registry,
            buckets=_SECONDS,
        )
        self._tokens = Counter(
            "llm_tokens",
            "Tokens as the provider counts them, or as estimated.",
            (*labels, "direction"),
            registry=registry,
        )

        self._children: dict[tuple[str, str], _Children] = {}

    def attempt(self, provider: str, model: str, status: str, duration_s: float) -> None:
        """Count one call of a provider."""
        children = self._of(provider, model)
        calls = children.calls.get(status)
        if calls is None:
            calls = self._calls.labels(*children.labels, status)
            children.calls[status] = calls
        calls.inc()
        children.duration.observe(duration_s)

    def first_byte(self, provider: str, model: str, duration_s: float) -> None:
        """Note how long a stream's first event took."""
        self._of(provider, model).first_byte.observe(duration_s)

    def tokens(self, provider: str, model: str, usage: Usage) -> None:
        """Count what a call used."""
        children = self._of(provider, model)
        children.input_tokens.inc(usage.input_tokens)
        children.output_tokens.inc(usage.output_tokens)

    def _of(self, provider: str, model: str) -> "_Children":
        labels = (provider, model) if (provider, model) in self._known else (_OTHER, _OTHER)
        children = self._children.get(labels)
        if children is None:
            children = self._children[labels] = _Children(
                labels,
                {},
                self._duration.labels(*labels),
                self._first_byte.labels(*labels),
                self._tokens.labels(*labels, "input"),
                self._tokens.labels(*labels, "output"),
            )
        return children


@dataclass(frozen=True)
class _Children:
    """The figures of one provider and model, looked up once: a look-up costs as much as a count."""

    labels: tuple[str, str]
    calls: dict[str, Counter]
    duration: Histogram
    first_byte: Histogram
    input_tokens: Counter
    output_tokens: Counter
