"""What the pipeline needs of its neighbours, in the gateway's own words."""

from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Protocol

import msgspec

from services.gateway.events import Event, LimitDecision, RecordReference, Usage
from services.gateway.principal import Principal


class LimitState(msgspec.Struct, frozen=True):
    """How one rule stands: `limit` and `remaining` in `unit`, times in seconds.

    Args:
        name: the rule's.
        unit: `requests`, `tokens`, `cost_micros` or `concurrency`.
        limit: the most that can be used at once, or in the window.
        remaining: what is left.
        reset_after_s: until the limit is whole again; 0 where nobody knows.
        window_s: the time that `limit` refers to; 0 for requests in flight.
        scope: whose calls it counts: `principal`, `tenant`, `role`, `model` or `global`.
        scope_key: which tenant, role or model that is.
        shadow: whether it only counts, so that clients are not told of it.
        refuses: whether it refused the call.
    """

    name: str
    unit: str
    limit: int
    remaining: int
    reset_after_s: float
    window_s: float
    scope: str = "principal"
    scope_key: str = ""
    shadow: bool = False
    refuses: bool = False


class Admission(msgspec.Struct, frozen=True, weakref=True):
    """The limiter's verdict on one request; whoever holds it holds the reservation.

    Args:
        reservation_id: what settles it.
        admitted: whether the call may be made.
        decision: what the record keeps.
        limits: how each rule stands, the tightest first.
        retry_after_s: when a refused call is worth another try; None when it is admitted, or when
            it asks for more than the limit will ever allow.
        model: the model that it was reserved for; rules per model know the reservation by it.
    """

    reservation_id: bytes
    admitted: bool
    decision: LimitDecision
    limits: tuple[LimitState, ...] = ()
    retry_after_s: float | None = None
    model: str = ""


class Limiter(Protocol):
    """Decides whether a call may be made."""

    async def reserve(
        self, principal: Principal, model: str, *, tokens: int, cost_micros: int
    ) -> Admission:
        """Reserve one request with its bound; it lives until it is settled or nobody holds it.

        Raises:
            Unavailable: the limiter cannot be reached, or its policy is to deny.
        """
        ...

    def settle(
        self, principal: Principal, admission: Admission, usage: Usage | None, cost_micros: int
    ) -> None:
        """Say what a call really used; it is sent in the background, whatever happens here."""
        ...


class ModelCall(msgspec.Struct, frozen=True):
    """One call as it leaves for the model service."""

    request_id: str
    principal: Principal
    dialect: str
    model: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    max_output_tokens: int = 0


class Generation(msgspec.Struct, frozen=True):
    """What is known about a call once it has ended."""

    provider: str = ""
    model: str = ""
    usage: Usage = msgspec.field(default_factory=Usage)
    cost_micros: int = 0
    price_version: str = ""
    attempts: int = 0
    finish_reason: str = ""
    upstream_duration_s: float = 0.0
    tries: str = ""
    """Each try in a few words, where there was more than one."""
    cache: str = ""
    """`hit` or `miss`; empty when the cache was not to be asked."""
    cache_of: str = ""
    """Of a hit, the request whose answer this is."""


class Answer(msgspec.Struct, frozen=True):
    """A provider's whole answer."""

    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...]
    generation: Generation


class StreamStart(msgspec.Struct, frozen=True):
    """The provider has begun to answer."""

    content_type: str
    headers: tuple[tuple[str, str], ...]


class StreamChunk(msgspec.Struct, frozen=True):
    """One or more whole server-sent events; `terminal` ones complete the answer."""

    body: bytes
    terminal: bool


class StreamEnd(msgspec.Struct, frozen=True):
    """The provider has ended; `error` is empty when the answer is whole."""

    generation: Generation
    error: str = ""
    error_message: str = ""


StreamStep = StreamStart | StreamChunk | StreamEnd


class ModelInfo(msgspec.Struct, frozen=True):
    """One public model; prices in micro-units per million tokens, 0 where not known."""

    id: str
    provider: str
    context_tokens: int
    max_output_tokens: int
    input_price_micros: int
    output_price_micros: int
    created: int
    pattern: bool = False
    """Whether `id` is a pattern; its one `*` stands for any text of at least one character."""
    roles: tuple[str, ...] = ()
    """A caller must have one of them; empty: everybody may use it."""
    dialects: frozenset[str] = frozenset()
    """Those that reach it, as `weaver.model.v1.Dialect` without the prefix; empty: not known."""

    def cost_micros(self, input_tokens: int, output_tokens: int) -> int:
        """Return what so many tokens cost, in micro-units, rounded up."""
        price = input_tokens * self.input_price_micros + output_tokens * self.output_price_micros
        return -(-price // 1_000_000)


class Model(Protocol):
    """Calls providers."""

    async def generate(self, call: ModelCall, *, timeout_s: float) -> Answer:
        """Return the whole answer.

        Raises:
            WeaverError: as `weaver.model.v1.ModelService/Generate` says.
        """
        ...

    def stream(self, call: ModelCall) -> AsyncIterator[StreamStep]:
        """Stream the answer; closing the iterator cancels the provider.

        Raises:
            WeaverError: before the first step, as `generate`.
        """
        ...

    async def models(self) -> Sequence[ModelInfo]:
        """Return every public model.

        Raises:
            Unavailable: the model service cannot be reached.
        """
        ...


class AuditLog(Protocol):
    """Takes events and makes them durable."""

    async def append(self, events: Sequence[Event]) -> Sequence[RecordReference]:
        """Return where the events stand, once all of them are durable; each has its id.

        Raises:
            WeaverError: as `weaver.audit.v1.AuditService/AppendRecords` says.
        """
        ...


class Recorder(Protocol):
    """Takes one event at a time; see `services.gateway.recorder`."""

    def submit(self, event: Event, *, must: bool = False) -> Awaitable[RecordReference]:
        """Give the event its id and send it; the result is where it stands, once durable."""
        ...
