"""What is counted of each provider's calls, as plain numbers, and how Prometheus is told of it.

The same numbers go out twice: under the names that the operators' dashboards use, and under those
of OpenTelemetry's conventions for generative models. So the second costs calls nothing.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.distribution import Distribution
from services.model.call import Usage

# The bounds that the conventions advise.
SECONDS = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56),
    *(5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68),
)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
_OK = "ok"

Key = tuple[str, str, str]
"""Provider, model, operation."""


class Figures:
    """The numbers of one provider, model and operation."""

    __slots__ = ("cost_micros", "durations", "first_byte", "input_tokens", "output_tokens")

    def __init__(self) -> None:
        """Start at nothing."""
        self.durations: dict[str, Distribution] = {}
        self.first_byte = Distribution(SECONDS)
        self.input_tokens = Distribution(TOKENS)
        self.output_tokens = Distribution(TOKENS)
        self.cost_micros = 0

    def attempt(self, status: str, duration_s: float) -> None:
        """Count one call of a provider."""
        durations = self.durations.get(status)
        if durations is None:
            durations = self.durations[status] = Distribution(SECONDS)
        durations.observe(duration_s)

    def used(self, usage: Usage, cost_micros: int) -> None:
        """Count what a call used, and what it cost."""
        self.input_tokens.observe(usage.input_tokens)
        self.output_tokens.observe(usage.output_tokens)
        self.cost_micros += cost_micros


class FiguresCollector(Collector):
    """The numbers of all of them."""

    def __init__(self) -> None:
        """Start with none."""
        self._all: dict[Key, Figures] = {}

    def of(self, key: Key) -> Figures:
        """Return the numbers of one."""
        found = self._all.get(key)
        if found is None:
            found = self._all[key] = Figures()
        return found

    def collect(self) -> Iterator[Metric]:
        """Yield what Prometheus asks for."""
        yield from self._own()
        yield from self._conventional()

    def _own(self) -> Iterator[Metric]:
        labels = ("provider", "model")
        calls = CounterMetricFamily(
            "llm_api_calls", "Calls of a provider, each try counted.", labels=(*labels, "status")
        )
        duration = HistogramMetricFamily(
            "llm_api_duration_seconds",
            "How long a provider took, to the end of its answer.",
            labels=labels,
        )
        first_byte = HistogramMetricFamily(
            "llm_time_to_first_byte_seconds",
            "How long a provider took to the first event of a stream.",
            labels=labels,
        )
        tokens = CounterMetricFamily(
            "llm_tokens",
            "Tokens as the provider counts them, or as estimated.",
            labels=(*labels, "direction"),
        )
        cost = CounterMetricFamily(
            "llm_cost_micros",
            "What calls cost, in millionths of the account's currency.",
            labels=labels,
        )
        for target, several in self._by_target().items():
            took = {
                status: Distribution(SECONDS) for one in several for status in list(one.durations)
            }
            for one in several:
                for status, distribution in list(one.durations.items()):
                    took[status] += distribution
            for status, distribution in took.items():
                calls.add_metric((*target, status), sum(distribution.counts))
            sum(took.values(), Distribution(SECONDS)).add_to(duration, target)
            first = sum((one.first_byte for one in several), Distribution(SECONDS))
            first.add_to(first_byte, target)
            tokens.add_metric((*target, "input"), sum(one.input_tokens.total for one in several))
            tokens.add_metric((*target, "output"), sum(one.output_tokens.total for one in several))
            cost.add_metric(target, sum(one.cost_micros for one in several))
        yield from (calls, duration, first_byte, tokens, cost)

    def _conventional(self) -> Iterator[Metric]:
        labels = ("gen_ai_provider_name", "gen_ai_request_model", "gen_ai_operation_name")
        duration = HistogramMetricFamily(
            "gen_ai_client_operation_duration_seconds",
            "How long calls of providers took; error_type is empty for those that went well.",
            labels=(*labels, "error_type"),
        )
        usage = HistogramMetricFamily(
            "gen_ai_client_token_usage",
            "Tokens of a call: input and output.",
            labels=(*labels, "gen_ai_token_type"),
        )
        first = HistogramMetricFamily(
            "gen_ai_client_operation_time_to_first_chunk_seconds",
            "How long calls of providers that stream took to their first event.",
            labels=labels,
        )
        for key, one in list(self._all.items()):
            for status, distribution in list(one.durations.items()):
                distribution.add_to(duration, (*key, "" if status == _OK else status))
            one.input_tokens.add_to(usage, (*key, "input"))
            one.output_tokens.add_to(usage, (*key, "output"))
            one.first_byte.add_to(first, key)
        yield from (duration, usage, first)

    def _by_target(self) -> dict[tuple[str, str], list[Figures]]:
        found: dict[tuple[str, str], list[Figures]] = {}
        for (provider, model, _), figures in list(self._all.items()):
            found.setdefault((provider, model), []).append(figures)
        return found
