"""Figures about providers, by the names that the operators' dashboards use.

Label values are bounded: a provider or model that was not configured is counted as `other`. How
the targets stand is asked of them when somebody scrapes, so that it costs calls nothing.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.model.breaker import State
from services.model.call import Usage
from services.model.route import Target

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)
_OTHER = "other"
_STATES = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


class ProviderMetrics:
    """Counts calls, time and tokens.

    Args:
        registry: the service's own.
        known: each provider with its model, as configured.
    """

    def __init__(
        self, registry: CollectorRegistry, known: Collection[tuple[str, str]] = ()
    ) -> None:
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
        self._cost = Counter(
            "llm_cost_micros",
            "What calls cost, in millionths of the account's currency.",
            labels,
            registry=registry,
        )
        self._skipped = Counter(
            "llm_target_skipped",
            "Calls that passed a target over, because its breaker was open or its queue full.",
            (*labels, "reason"),
            registry=registry,
        )
        self._routes_good = Gauge(
            "llm_routes_good",
            "Whether the route file, as it is now, is good; 0 while an older one decides.",
            registry=registry,
        )
        self._routes_good.set(1)
        self._routes_read = Counter(
            "llm_routes_read",
            "Changed route files, by whether they were good.",
            ("result",),
            registry=registry,
        )
        self._keys_read = Counter(
            "llm_provider_key_read",
            "Changed key files, by whether they were good.",
            ("provider", "result"),
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

    def know(self, known: Collection[tuple[str, str]]) -> None:
        """Take other providers and models for those that are configured."""
        self._known = frozenset(known)

    def routes_read(self, *, good: bool) -> None:
        """Take note of a changed route file."""
        self._routes_good.set(int(good))
        self._routes_read.labels("good" if good else "bad").inc()

    def key_read(self, provider: str, *, good: bool) -> None:
        """Take note of a changed key file."""
        self._keys_read.labels(provider, "good" if good else "bad").inc()

    def skipped(self, provider: str, model: str, reason: str) -> None:
        """Count one call that passed a target over."""
        self._skipped.labels(*self._of(provider, model).labels, reason).inc()

    def tokens(self, provider: str, model: str, usage: Usage, cost_micros: int) -> None:
        """Count what a call used, and what it cost."""
        children = self._of(provider, model)
        if cost_micros:
            children.cost.inc(cost_micros)
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
                self._cost.labels(*labels),
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
    cost: Counter


class TargetMetrics(Collector):
    """How each target stands, asked when somebody scrapes.

    Args:
        registry: the service's own.
        targets: returns those that there are now.
    """

    def __init__(
        self, registry: CollectorRegistry, targets: Callable[[], Iterable[Target]]
    ) -> None:
        """See the class."""
        self._targets = targets
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Return the figures."""
        labels = ("provider", "model")
        state = GaugeMetricFamily(
            "llm_target_state", "The breaker: 0 closed, 1 half open, 2 open.", labels=labels
        )
        busy = GaugeMetricFamily("llm_target_in_flight", "Calls at the target.", labels=labels)
        queue = GaugeMetricFamily("llm_target_waiting", "Calls in its queue.", labels=labels)
        now = time.monotonic()
        for (provider, model), target in {
            (target.provider.name, target.model): target for target in self._targets()
        }.items():
            state.add_metric((provider, model), _STATES[target.breaker.state(now)])
            busy.add_metric((provider, model), target.gate.in_flight)
            queue.add_metric((provider, model), target.gate.waiting)
        yield from (state, busy, queue)
