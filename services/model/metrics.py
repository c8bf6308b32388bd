"""Figures about providers, by the names that the operators' dashboards use.

Label values are bounded: a provider or model that was not configured is counted as `other`.
"""

from collections.abc import Collection

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

    def attempt(self, provider: str, model: str, status: str, duration_s: float) -> None:
        """Count one call of a provider."""
        labels = self._labels(provider, model)
        self._calls.labels(*labels, status).inc()
        self._duration.labels(*labels).observe(duration_s)

    def first_byte(self, provider: str, model: str, duration_s: float) -> None:
        """Note how long a stream's first event took."""
        self._first_byte.labels(*self._labels(provider, model)).observe(duration_s)

    def tokens(self, provider: str, model: str, usage: Usage) -> None:
        """Count what a call used."""
        labels = self._labels(provider, model)
        self._tokens.labels(*labels, "input").inc(usage.input_tokens)
        self._tokens.labels(*labels, "output").inc(usage.output_tokens)

    def _labels(self, provider: str, model: str) -> tuple[str, str]:
        return (provider, model) if (provider, model) in self._known else (_OTHER, _OTHER)
