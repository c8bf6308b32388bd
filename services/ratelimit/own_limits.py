"""The limits that one principal brings along, such as those of an API key.

Each takes the place of the rules of its name in the scope `principal`, whatever they match: who
gave the key its limit meant that one. Ceilings that are shared hold beside them.
"""

import math
from functools import cached_property

import msgspec

from services.ratelimit.rule import Rule, Unit

_MINUTE_S = 60


class OwnLimits(msgspec.Struct, frozen=True, dict=True):
    """What a principal may use; 0 leaves what the policy says.

    Attributes:
        requests_per_second: in the long run.
        burst: requests at once; 0 for as many as come back in a second.
        tokens_per_minute: prompt and answer.
        tokens_per_day: by calendar day (UTC).
        cost_micros_per_day: money, in millionths.
        cost_micros_per_month: by calendar month (UTC).
        concurrency: requests in flight.
    """

    requests_per_second: float = 0.0
    burst: int = 0
    tokens_per_minute: int = 0
    tokens_per_day: int = 0
    cost_micros_per_day: int = 0
    cost_micros_per_month: int = 0
    concurrency: int = 0

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that they are, named like those of the environment."""
        found = []
        if rate := self.requests_per_second:
            burst = self.burst or max(1, math.ceil(rate))
            found.append(Rule("requests", Unit.REQUESTS, rate, burst))
        if limit := self.tokens_per_minute:
            found.append(Rule("tokens_per_minute", Unit.TOKENS, limit / _MINUTE_S, limit))
        if limit := self.tokens_per_day:
            found.append(Rule("tokens_per_day", Unit.TOKENS, 0, limit, "day"))
        if limit := self.cost_micros_per_day:
            found.append(Rule("cost_per_day", Unit.COST, 0, limit, "day"))
        if limit := self.cost_micros_per_month:
            found.append(Rule("cost_per_month", Unit.COST, 0, limit, "month"))
        if limit := self.concurrency:
            found.append(Rule("concurrency", Unit.CONCURRENCY, 0, limit))
        return tuple(found)
