"""What Prometheus is told about decisions and the store."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


class Metrics:
    """Counts decisions and times the store; implements `ports.Observer`.

    Args:
        registry: the service's own.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """See the class."""
        self._decisions = Counter(
            "ratelimit_decisions_total",
            "Decisions by verdict, refusing rule and where they were made.",
            ("verdict", "rule", "source"),
            registry=registry,
        )
        self._up = Gauge(
            "ratelimit_store_up", "Whether the shared store answers.", registry=registry
        )
        self._seconds = Histogram(
            "ratelimit_store_seconds",
            "Time for one batch in the shared store.",
            buckets=SECONDS,
            registry=registry,
        )
        self._shadows = Counter(
            "ratelimit_shadow_refusals_total",
            "Calls that a rule in shadow mode would have refused.",
            ("rule",),
            registry=registry,
        )
        self._beyond = Counter(
            "ratelimit_used_beyond_bound_total",
            "Units used beyond what was reserved for them, and charged.",
            ("unit",),
            registry=registry,
        )
        self._policy_good = Gauge(
            "ratelimit_policy_valid",
            "Whether the policy file is the policy that decides; 0: the last good one decides.",
            registry=registry,
        )
        self._policy = Gauge(
            "ratelimit_policy_info",
            "1 for the version of the policy that decides.",
            ("version",),
            registry=registry,
        )
        self._reloads = Counter(
            "ratelimit_policy_reloads_total",
            "Changes of the policy file, by whether they were adopted or refused.",
            ("result",),
            registry=registry,
        )
        self._replicas = Gauge(
            "ratelimit_replicas",
            "Limiters that share the limits while the store is down.",
            registry=registry,
        )
        self._fit = Gauge(
            "ratelimit_store_fit",
            "Whether the store has a maxmemory and evicts nothing.",
            registry=registry,
        )
        self._children: dict[tuple[bool, str, str], Counter] = {}

    def decided(self, *, admitted: bool, rule: str, source: str) -> None:
        """Count a decision; `rule` is the one that refused, or empty."""
        key = (admitted, rule, source)
        child = self._children.get(key)
        if child is None:
            verdict = "admitted" if admitted else "refused"
            child = self._children[key] = self._decisions.labels(verdict, rule, source)
        child.inc()

    def shadow_refused(self, rule: str) -> None:
        """Count a call that a rule in shadow mode would have refused."""
        self._shadows.labels(rule).inc()

    def used_beyond_bound(self, unit: str, amount: int) -> None:
        """Count what was used beyond its bound."""
        self._beyond.labels(unit).inc(amount)

    def store_answered(self, seconds: float) -> None:
        """Count how long the store took for one batch."""
        self._seconds.observe(seconds)

    def store_up(self, *, up: bool) -> None:
        """Say whether the shared store answers."""
        self._up.set(up)

    def store_fit(self, *, fit: bool) -> None:
        """Say whether the shared store may hold limits."""
        self._fit.set(fit)

    def policy_read(self, version: str, *, good: bool, changed: bool) -> None:
        """Say which policy decides, and whether the file is good."""
        self._policy_good.set(good)
        if changed:
            self._reloads.labels("adopted" if good else "refused").inc()
        self._policy.clear()
        self._policy.labels(version).set(1)

    def replicas_counted(self, count: int) -> None:
        """Say how many limiters share the limits."""
        self._replicas.set(count)
