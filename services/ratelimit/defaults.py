"""The rules that the environment sets; wiring's, since it reads settings."""

from services.ratelimit.descriptor import DescriptorRule, Entry
from services.ratelimit.rule import Rule, Unit
from services.ratelimit.settings import RatelimitSettings

EDGE_DOMAIN = "weaver_edge"
ADDRESS_KEY = "masked_remote_address"
_MINUTE_S = 60


def rules(settings: RatelimitSettings) -> list[Rule]:
    """Return the environment's rules for each principal; 0 means no such rule."""
    found = [Rule("requests", Unit.REQUESTS, settings.rps, settings.burst)]
    if limit := settings.tokens_per_minute:
        found.append(Rule("tokens_per_minute", Unit.TOKENS, limit / _MINUTE_S, limit))
    if limit := settings.tokens_per_day:
        found.append(Rule("tokens_per_day", Unit.TOKENS, 0, limit, "day"))
    if limit := settings.cost_micros_per_day:
        found.append(Rule("cost_per_day", Unit.COST, 0, limit, "day"))
    if limit := settings.cost_micros_per_month:
        found.append(Rule("cost_per_month", Unit.COST, 0, limit, "month"))
    if limit := settings.concurrency:
        found.append(Rule("concurrency", Unit.CONCURRENCY, 0, limit))
    return found


def descriptors(settings: RatelimitSettings) -> list[DescriptorRule]:
    """Return the environment's rule for our own Envoy: a bucket for each source address."""
    if not settings.address_rps:
        return []
    rule = Rule("per_address", Unit.REQUESTS, settings.address_rps, settings.address_burst)
    return [DescriptorRule(EDGE_DOMAIN, (Entry(ADDRESS_KEY),), rule, "second", headers=False)]
