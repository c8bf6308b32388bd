"""One request as the pipeline sees it, and what it hands back."""

from collections.abc import AsyncIterator, Callable
from typing import Protocol

import msgspec

from services.common.errors import (
    FieldViolation,
    InvalidArgument,
    ResourceExhausted,
    WeaverError,
)
from services.gateway.authorization import Scope
from services.gateway.events import RecordReference
from services.gateway.limit_sentences import is_budget, refusal_sentence, refusing
from services.gateway.ports import Admission, Generation, ModelInfo
from services.gateway.redaction import Redactor

Headers = tuple[tuple[str, str], ...]
CACHE_CONTROL = "cache-control"
"""It goes as far as the model service, whose cache obeys it."""
OPENAI_HEADERS = (
    "openai-organization",
    "openai-project",
    "openai-beta",
    "idempotency-key",
    CACHE_CONTROL,
)


class StreamRedaction(Protocol):
    """Takes personal data out of one stream."""

    def events(self, body: bytes) -> bytes:
        """Take whole server-sent events and return what can be released of them."""
        ...


class Ask(msgspec.Struct, frozen=True):
    """What the gateway read of a request's body.

    Args:
        model: the public model name.
        body: the body as it goes on, with what policy had to change.
        stream: whether the answer is to be streamed.
        input_tokens: the estimated tokens of the prompt.
        output_tokens: the most tokens that the answer may have.
    """

    model: str
    body: bytes
    stream: bool
    input_tokens: int
    output_tokens: int

    def cost_micros(self, model: ModelInfo | None) -> int:
        """Return the most that the call can cost, in micro-units."""
        return 0 if model is None else model.cost_micros(self.input_tokens, self.output_tokens)


def without_model(body: bytes, _: int = 0) -> Ask:
    """Return what a request asks that calls no model."""
    return Ask("", body, stream=False, input_tokens=0, output_tokens=0)


class Surface(msgspec.Struct, frozen=True):
    """One way in for requests that are recorded.

    Args:
        name: as records show it.
        scope: what a caller's roles must allow.
        read: reads a body, given the most output tokens that the deployment allows.
        dialect: a `weaver.model.v1.Dialect` without its prefix; "" where no model is called.
        headers: the request headers that go along to the provider.
        error_event: writes the error event of the dialect's streams; None for OpenAI's.
        redaction: makes what redacts one of its streams; None for OpenAI's chat completions.
    """

    name: str
    scope: Scope
    read: Callable[[bytes, int], Ask]
    dialect: str = ""
    headers: tuple[str, ...] = OPENAI_HEADERS
    error_event: Callable[[WeaverError, str], bytes] | None = None
    redaction: Callable[[Redactor], StreamRedaction] | None = None


class Call(msgspec.Struct, frozen=True):
    """One request of a client.

    Args:
        request_id: ours; the handle to everything the log holds about the request.
        surface: the way in.
        body: the vendor's JSON.
        header: looks up a request header by its name in lower case; "" when it is not there.
        source_network: the network the client is in, cut to /24 or /48.
        trace_id: the W3C trace id.
        arrived: the monotonic time of arrival, in seconds.
    """

    request_id: str
    surface: Surface
    body: bytes
    header: Callable[[str], str]
    source_network: str
    trace_id: str
    arrived: float


class LimitExceeded(ResourceExhausted):
    """A limit refused the call.

    Args:
        admission: the verdict, with the state of every limit.
        surface: the way in that the call took.
    """

    def __init__(self, admission: Admission, surface: str = "") -> None:
        """See the class."""
        rule = admission.decision.rule or "requests"
        state = refusing(admission)
        super().__init__(
            refusal_sentence(rule, state, admission.retry_after_s),
            reason="BUDGET_EXHAUSTED" if state is not None and is_budget(state) else None,
            retry_after_s=admission.retry_after_s,
            metadata={"quota": rule},
        )
        self.admission = admission
        self.surface = surface


class ContextExceeded(InvalidArgument):
    """A prompt is longer than the model's context.

    Args:
        tokens: the estimate of the prompt.
        most: what the model takes.
    """

    def __init__(self, tokens: int, most: int) -> None:
        """See the class."""
        super().__init__(
            f"The prompt is too long: it has about {tokens} tokens, and this model's maximum "
            f"context length is {most} tokens.",
            reason="CONTEXT_LENGTH_EXCEEDED",
            violations=(FieldViolation("messages", f"must have no more than {most} tokens."),),
        )


class WholeResponse(msgspec.Struct, frozen=True):
    """A response that is released at once; its outcome is durable, or policy needs none."""

    body: bytes
    content_type: str
    headers: Headers
    admission: Admission
    record: RecordReference | None
    generation: Generation


class StreamedResponse(Protocol):
    """A response that is released as it is produced.

    It is released whole by iterating to the end and then sending what `last` returns. `aclose` must
    be called whatever happens; before the end it cancels the provider and records the outcome as
    cancelled.
    """

    @property
    def content_type(self) -> str:
        """The media type."""
        ...

    @property
    def headers(self) -> Headers:
        """The response headers that the provider's answer brought."""
        ...

    @property
    def admission(self) -> Admission:
        """The limiter's verdict."""
        ...

    @property
    def record(self) -> RecordReference | None:
        """Where the outcome stands, once it is durable."""
        ...

    @property
    def generation(self) -> Generation:
        """What is known about the call, once it has ended."""
        ...

    @property
    def error(self) -> WeaverError | None:
        """Why the answer broke off, once it has ended; None for a whole one."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield all of the answer but its end, piece by piece, whole events each."""
        ...

    async def last(self) -> bytes:
        """Record the outcome and return the end of the answer, or the error in its place."""
        ...

    async def aclose(self) -> None:
        """End the response."""
        ...


Response = WholeResponse | StreamedResponse
