"""What a call used and what it cost.

Tokens are the provider's own count. Where it gives none, an estimate of four bytes a token stands
in and says so. Cost is whole millionths of the account's currency, rounded up, so that no call is
free by rounding.
"""

import hashlib
from functools import lru_cache
from typing import Any

import msgspec

from services.model.call import UNREADABLE, Facts, Usage

BYTES_PER_TOKEN = 4
# The largest integer that the audit log can hold.
MOST_MICROS = 2**53 - 1
_MILLION = 1_000_000
_ATTACHMENT_BYTES = 4_000
_PROMPT_FIELDS = ("messages", "input", "prompt", "system", "tools", "instructions")


class Prices(msgspec.Struct, frozen=True):
    """The price of a million tokens, in millionths of the account's currency.

    Args:
        input_micros: for a million tokens of the prompt.
        output_micros: for a million tokens of the answer.
        cached_input_micros: for those that the provider read from its cache; None as any other.
        cache_write_micros: for those that it wrote to its cache; None as any other.
        name: what operators call this version of their prices; empty names it by its figures.
    """

    input_micros: int = 0
    output_micros: int = 0
    cached_input_micros: int | None = None
    cache_write_micros: int | None = None
    name: str = ""

    @property
    def version(self) -> str:
        """The name of these prices; without one, the same figures have the same name."""
        return self.name or _digest(self)

    def cost_micros(self, usage: Usage) -> int:
        """Return what a call cost, rounded up; never more than a record can hold."""
        total = usage.input_tokens * self.input_micros + usage.output_tokens * self.output_micros
        if self.cached_input_micros is not None:
            cached = min(usage.cached_input_tokens, usage.input_tokens)
            total += cached * (self.cached_input_micros - self.input_micros)
        if self.cache_write_micros is not None:
            written = min(
                usage.cache_write_input_tokens,
                max(0, usage.input_tokens - usage.cached_input_tokens),
            )
            total += written * (self.cache_write_micros - self.input_micros)
        return min(-(-total // _MILLION), MOST_MICROS)


@lru_cache(maxsize=4096)
def _digest(prices: Prices) -> str:
    return hashlib.sha256(msgspec.json.encode(prices)).hexdigest()[:12]


def counted(facts: Facts, request_body: bytes) -> Usage:
    """Return the provider's count of a call, or an estimate marked as one."""
    if facts.usage is not None:
        return facts.usage
    return Usage(
        input_tokens=_tokens(prompt_bytes(request_body)),
        output_tokens=_tokens(facts.answer_bytes),
        estimated=True,
    )


def prompt_bytes(request_body: bytes) -> int:
    """Return the size of a prompt's text in any dialect; an embedded file counts 4,000 bytes."""
    try:
        body = msgspec.json.decode(request_body)
        if isinstance(body, dict):
            return sum(_text_bytes(body.get(field)) for field in _PROMPT_FIELDS)
    except UNREADABLE:
        return len(request_body)
    return len(request_body)


def _text_bytes(value: Any) -> int:  # noqa: ANN401 - any JSON
    if isinstance(value, str):
        return _ATTACHMENT_BYTES if value.startswith("data:") else len(value.encode())
    if isinstance(value, list):
        return sum(_text_bytes(item) for item in value)
    if isinstance(value, dict):
        if value.get("type") == "base64":
            return _ATTACHMENT_BYTES
        return sum(_text_bytes(item) for item in value.values())
    return 0


def _tokens(size: int) -> int:
    return -(-size // BYTES_PER_TOKEN)
