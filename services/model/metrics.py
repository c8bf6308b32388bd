"""Figures about providers, by the names that the operators' dashboards use.

Label values are bounded: a provider or model that was not configured is counted as `other`. How
the targets stand is asked of them when somebody scrapes, so that it costs calls nothing.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.model.breaker import State
from services.model.call import CHAT, Usage
from services.model.figures import Figures, FiguresCollector
from services.model.route import Target

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
        self._figures = FiguresCollector()
        registry.register(self._figures)
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
        self._cache_asked = Counter(
            "llm_cache_asked",
            "Requests that the cache may answer, by what it said.",
            ("result",),
            registry=registry,
        )
        self._cache_kept = Counter(
            "llm_cache_kept",
            "Answers that the cache may keep, by what became of them.",
            ("result",),
            registry=registry,
        )
        self._cache_saved = Counter(
            "llm_cache_saved_cost_micros",
            "What hits did not cost, in millionths of the account's currency.",
            registry=registry,
        )

    def attempt(
        self, provider: str, model: str, status: str, duration_s: float, operation: str = CHAT
    ) -> None:
        """Count one call of a provider."""
        self._of(provider, model, operation).attempt(status, duration_s)

    def first_byte(
        self, provider: str, model: str, duration_s: float, operation: str = CHAT
    ) -> None:
        """Note how long a stream's first event took."""
        self._of(provider, model, operation).first_byte.observe(duration_s)

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
        known = (provider, model) in self._known
        target = (provider, model) if known else (_OTHER, _OTHER)
        self._skipped.labels(*target, reason).inc()

    def cache_asked(self, result: str) -> None:
        """Count one look-up."""
        self._cache_asked.labels(result).inc()

    def cache_kept(self, result: str) -> None:
        """Count one answer that could be kept."""
        self._cache_kept.labels(result).inc()

    def cache_saved(self, cost_micros: int) -> None:
        """Count what a hit did not cost."""
        self._cache_saved.inc(cost_micros)

    def tokens(
        self, provider: str, model: str, usage: Usage, cost_micros: int, operation: str = CHAT
    ) -> None:
        """Count what a call used, and what it cost."""
        self._of(provider, model, operation).used(usage, cost_micros)

    def _of(self, provider: str, model: str, operation: str) -> Figures:
        if (provider, model) not in self._known:
            provider = model = _OTHER
        return self._figures.of((provider, model, operation))


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
