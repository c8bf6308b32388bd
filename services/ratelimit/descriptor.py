"""Rules for Envoy's rate limit filter: which descriptors they count, and in which account.

A descriptor is a list of keys and values, such as `remote_address: 192.0.2.1`. A rule lists the
keys; an entry with a value is for that value alone, one without has a bucket for each value.
"""

from collections.abc import Sequence

import msgspec

from services.ratelimit.rule import Rule


class Entry(msgspec.Struct, frozen=True):
    """A key, and the value that it must have; None for any."""

    key: str
    value: str | None = None


class DescriptorRule(msgspec.Struct, frozen=True):
    """A bucket of requests for each set of values.

    Attributes:
        domain: what Envoy's filter calls the set of rules.
        entries: what the descriptor must hold, in this order and nothing else.
        rule: the bucket.
        per: the time that its limit is for, in words; empty for none.
        unlimited: lets what fits pass, so that no later rule applies.
        headers: whether admitted calls are told how the rule stands; refused ones always are.
    """

    domain: str
    entries: tuple[Entry, ...]
    rule: Rule
    per: str = ""
    unlimited: bool = False
    headers: bool = True

    def fits(self, domain: str, entries: Sequence[tuple[str, str]]) -> bool:
        """Say whether the rule is for a descriptor."""
        return (
            domain == self.domain
            and len(entries) == len(self.entries)
            and all(
                own.key == key and own.value in {None, value}
                for own, (key, value) in zip(self.entries, entries, strict=True)
            )
        )
