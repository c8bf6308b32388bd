"""The words of this room: a call, its answer, its stream, and what is known once it has ended.

Values only. They carry the vendor's bytes and never look into them.
"""

from enum import Enum

import msgspec

Headers = tuple[tuple[str, str], ...]
"""Names in lower case, with their values, in order."""

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are not the JSON that they should be."""


class Dialect(Enum):
    """The vendor surface that a body is written in."""

    OPENAI_CHAT = "OpenAI chat completions"
    OPENAI_RESPONSES = "OpenAI responses"
    OPENAI_EMBEDDINGS = "OpenAI embeddings"
    ANTHROPIC_MESSAGES = "Anthropic messages"
    ANTHROPIC_COUNT_TOKENS = "Anthropic's count of tokens"


CHAT = "chat"
OPERATIONS = {
    Dialect.OPENAI_CHAT: CHAT,
    Dialect.OPENAI_RESPONSES: CHAT,
    Dialect.OPENAI_EMBEDDINGS: "embeddings",
    Dialect.ANTHROPIC_MESSAGES: CHAT,
    Dialect.ANTHROPIC_COUNT_TOKENS: "count_tokens",
}
"""What is done, in the words of OpenTelemetry's conventions where they have one."""


class Call(msgspec.Struct, frozen=True, gc=False):
    """One model call, as it was asked for or as a target is asked.

    Args:
        request_id: the gateway's handle to the request.
        dialect: what `body` is written in.
        model: the public name in the first place, the target's name once a target is chosen.
        body: the vendor's JSON.
        headers: request headers that may pass to the provider.
        timeout_s: seconds in which the caller wants its answer; None without a deadline.
        max_output_tokens: the most tokens that one answer may have, where the body does not say;
            0 when not known.
        caller: tenant, issuer and subject of who asks; each is empty when not known.
    """

    request_id: str
    dialect: Dialect
    model: str
    body: bytes
    headers: Headers = ()
    timeout_s: float | None = None
    max_output_tokens: int = 0
    caller: tuple[str, str, str] = ("", "", "")


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens that one call used, as `weaver.common.v1.Usage` describes them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False


class Facts(msgspec.Struct, gc=False):
    """What an answer says about itself, as far as it is known; a stream fills it as it goes.

    Args:
        model: the model that answers, as the provider names it; empty when it does not say.
        finish_reason: in the vendor's word; empty when it did not say.
        usage: as the provider counts it; None when it did not say.
        answer_bytes: bytes of the answer's text, for an estimate when `usage` is None.
    """

    model: str = ""
    finish_reason: str = ""
    usage: Usage | None = None
    answer_bytes: int = 0


class Answer(msgspec.Struct, frozen=True):
    """A provider's whole answer, byte for byte."""

    body: bytes
    facts: Facts
    content_type: str = "application/json"
    headers: Headers = ()


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """One or more whole server-sent events.

    Args:
        body: the bytes, each event ended by an empty line.
        terminal: whether they say that the answer is complete. At most the last chunk is.
    """

    body: bytes
    terminal: bool = False


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One try at one target.

    Args:
        provider: the provider's name.
        model: the model that was asked of it.
        http_status: its status; 0 when there was none.
        error: a reason of `weaver.common.v1.ErrorReason`; empty when it answered.
        duration_s: how long the try took, to the first byte of a stream.
    """

    provider: str
    model: str
    http_status: int
    error: str
    duration_s: float


class Generation(msgspec.Struct, frozen=True):
    """What is known about a call once it has ended.

    Of what an answer from the cache says, usage and cost are zero and `attempts` is empty.
    """

    provider: str
    model: str
    usage: Usage
    cost_micros: int
    price_version: str
    attempts: tuple[Attempt, ...]
    finish_reason: str
    upstream_duration_s: float
    cache: str = ""
    """`hit` or `miss`; empty when the cache was not to be asked."""
    cache_of: str = ""
    """Of a hit, the request that brought the answer."""
