"""The path of one request, in the order that the promises fix.

    authenticate → authorise → validate → reserve → redact → intent durable
        → provider → redact → outcome durable → respond, settling beside the outcome

Nothing leaves before the intent is durable, nothing complete returns before the outcome is. Every
admitted request gets exactly one outcome, whatever becomes of its caller; every refused one is
counted exactly once.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast
from weakref import WeakSet

from services.common.batching import Company
from services.common.clock import Clock
from services.common.errors import Internal, Unavailable, WeaverError
from services.gateway.admission import Door, Place
from services.gateway.authentication import Authenticator
from services.gateway.authorization import LISTING, Authorizer, Permissions
from services.gateway.body import text_tokens, wrong
from services.gateway.calls import (
    Ask,
    Call,
    ContextExceeded,
    LimitExceeded,
    Response,
    WholeResponse,
)
from services.gateway.catalogue import Catalogue, unknown_model
from services.gateway.content import Content, hide
from services.gateway.events import CaptureRule, RecordReference
from services.gateway.exchange import CLIENT_CLOSED_REQUEST, Exchange, Unrecorded
from services.gateway.ports import (
    Admission,
    Generation,
    Limiter,
    Model,
    ModelCall,
    ModelInfo,
    StreamStart,
    StreamStep,
)
from services.gateway.principal import Principal
from services.gateway.recorder import Recorder
from services.gateway.refusals import Refusal, Refusals
from services.gateway.streaming import Stream

Result = TypeVar("Result")

READ_AT_ONCE = 64 * 1024
INTERNAL_SERVER_ERROR = 500


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """What a deployment decides about the path of a request.

    Args:
        content: checks requests and redacts them.
        max_output_tokens: the most tokens that one answer may have.
        request_timeout_s: the most time that a whole answer may take.
        stream_idle_timeout_s: how long a stream may say nothing.
        capture: which prompts and answers are captured; None for none.
    """

    content: Content
    max_output_tokens: int
    request_timeout_s: float
    stream_idle_timeout_s: float
    capture: CaptureRule | None = None


class Pipeline:
    """Takes calls through the path.

    Args:
        authenticator: says who is calling.
        authorizer: says what they may do.
        door: says whether there is room for one more.
        catalogue: the public models.
        limiter: the limits.
        model: the providers.
        recorder: the log.
        refusals: counts what is refused.
        clock: for times and durations.
        settings: what the deployment decides.
        http_status: the HTTP status that an error becomes, for the records.
        error_event: writes the dialect's error event.
        company: counts the calls that are not waiting for a provider.
        unrecorded: is told of requests that go on although the log does not answer; None where
            policy refuses them.
    """

    def __init__(  # noqa: PLR0913 - the wiring of the path
        self,
        *,
        authenticator: Authenticator,
        authorizer: Authorizer,
        door: Door,
        catalogue: Catalogue,
        limiter: Limiter,
        model: Model,
        recorder: Recorder,
        refusals: Refusals,
        clock: Clock,
        settings: PipelineSettings,
        http_status: Callable[[WeaverError], int],
        error_event: Callable[[WeaverError, str], bytes],
        company: Company,
        unrecorded: Unrecorded | None = None,
    ) -> None:
        """See the class."""
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._door = door
        self._catalogue = catalogue
        self._limiter = limiter
        self._model = model
        self._recorder = recorder
        self._refusals = refusals
        self._clock = clock
        self._settings = settings
        self._http_status = http_status
        self._error_event = error_event
        self._company = company
        self._unrecorded = unrecorded
        self._streams: WeakSet[Stream] = WeakSet()

    async def authenticate(self, header: Callable[[str], str]) -> Principal:
        """Return who is calling.

        Raises:
            Unauthenticated: no credential, or not a good one.
        """
        return await self._authenticator.authenticate(header)

    def permissions(self, principal: Principal) -> Permissions:
        """Return what a principal's roles allow."""
        return self._authorizer.of(principal)

    async def models(self, header: Callable[[str], str], named: str = "") -> Sequence[ModelInfo]:
        """Return the models that the caller may use; of `named` that one, if they may.

        Raises:
            Unauthenticated: no credential, or not a good one.
            PermissionDenied: the caller's roles do not allow listing models.
            Unavailable: the model service cannot be reached and never could.
        """
        principal = await self.authenticate(header)
        permissions = self._authorizer.require(principal, LISTING)
        models = await self._catalogue.models(principal.roles, named)
        visible = [model for model in models if permissions.may_see(model.id)]
        return [model for model in visible if principal.may_use(model.id)]

    async def run(self, call: Call) -> Response:
        """Take one model call through the path.

        Raises:
            WeaverError: the call is refused, or there is no answer.
        """
        with self._company:
            exchange = await self._admit(call)
            try:
                await exchange.redact()
                await exchange.open()
                if exchange.ask.stream:
                    return await self._streamed(exchange)
                response = await self._whole(exchange)
            except BaseException as error:
                self._abandon(exchange, error)
                raise
        exchange.place.leave()
        return response

    def stop_streams(self) -> None:
        """End the streams that are under way, each as its dialect says."""
        msg = "The gateway is restarting, so the answer breaks off. Send the request again."
        for stream in tuple(self._streams):
            stream.stop(Unavailable(msg, retry_after_s=1.0))

    async def read(
        self,
        call: Call,
        reading: Callable[[Principal], Awaitable[Result]],
        what: Callable[[Result], Mapping[str, str]] | None = None,
        order: Callable[[], Mapping[str, str]] | None = None,
    ) -> tuple[Result, Admission, RecordReference | None]:
        """Take what calls no model through the path: recorded before and after, like a call.

        Args:
            call: the request.
            reading: does it.
            what: tells what was read, for a record of its own.
            order: tells what is about to be changed, for a record that is durable before it is.

        Raises:
            WeaverError: the reading is refused, or failed.
        """
        exchange = await self._admit(call)
        try:
            await exchange.open(strict=True)
            if order is not None:
                await exchange.note_order(order())
            result = await reading(exchange.principal)
            if what is not None:
                exchange.note_read(what(result))
            outcome = exchange.complete(Generation())
            record = await exchange.durable(outcome, self._remaining(exchange))
        except BaseException as error:
            self._abandon(exchange, error)
            raise
        exchange.place.leave()
        return result, exchange.admission, record

    def _abandon(self, exchange: Exchange, error: BaseException) -> None:
        """Close an exchange that failed, whatever the failure."""
        exchange.place.leave()
        known = error
        if isinstance(error, WeaverError):
            hide(error, exchange.redactor)
        elif isinstance(error, Exception):
            known = Internal("Internal error.")
        if not exchange.opened:
            exchange.release()
            self._refuse(exchange.call, exchange.principal, known)
        elif isinstance(known, WeaverError):
            exchange.fail(known)
        else:
            exchange.cancel()

    async def permit(self, call: Call) -> Principal:
        """Return who is calling if they may; what needs no record of its own asks only this.

        Raises:
            WeaverError: they may not; it is counted.
        """
        principal: Principal | None = None
        try:
            principal = await self._authenticator.authenticate(call.header)
            self._authorizer.require(principal, call.surface)
        except WeaverError as error:
            self._refuse(call, principal, error)
            raise
        return principal

    async def _admit(self, call: Call) -> Exchange:
        """Decide whether a call may be made; a refusal is counted here, once."""
        principal: Principal | None = None
        place: Place | None = None
        try:
            principal = await self._authenticator.authenticate(call.header)
            permissions = self._authorizer.require(principal, call.surface)
            place = self._door.enter(principal, len(call.body))
            ask = await self._read(call)
            model = None
            if call.surface.dialect:
                model = await self._catalogue.find(ask.model, principal.roles)
                allowed = permissions.may_use(call.surface.name, ask.model)
                if not (allowed and principal.may_use(ask.model)):
                    raise unknown_model(ask.model)  # noqa: TRY301 - a refusal like the others
                self._check_dialect(call, model)
                if 0 < model.context_tokens < ask.input_tokens:
                    await self._check_length(ask, model)
            admission = await self._limiter.reserve(
                principal,
                ask.model,
                tokens=ask.input_tokens + ask.output_tokens,
                cost_micros=ask.cost_micros(model),
            )
            if not admission.admitted:
                raise LimitExceeded(admission, call.surface.name)  # noqa: TRY301 - a refusal like the others
        except BaseException as error:
            if place is not None:
                place.leave()
            self._refuse(call, principal, error)
            raise
        return Exchange(
            call,
            ask,
            principal,
            admission,
            model=model,
            redactor=self._settings.content.redactor(principal),
            recorder=self._recorder,
            limiter=self._limiter,
            clock=self._clock,
            http_status=self._http_status,
            place=place,
            capture=self._settings.capture if call.surface.dialect else None,
            unrecorded=self._unrecorded,
        )

    async def _whole(self, exchange: Exchange) -> WholeResponse:
        exchange.leave()
        exchange.place.pass_on(exchange.call.arrived)
        with self._company.absence:
            answer = await self._model.generate(
                self._model_call(exchange), timeout_s=self._remaining(exchange)
            )
        body = await exchange.redacted(answer.body)
        exchange.answer_commitments.add("ANSWER_RECEIVED", answer.body)
        exchange.answer_commitments.add("ANSWER_SENT", body)
        outcome = exchange.complete(answer.generation)
        record = await exchange.durable(outcome, self._remaining(exchange))
        body = exchange.restored(body)
        return WholeResponse(
            body, answer.content_type, answer.headers, exchange.admission, record, answer.generation
        )

    async def _streamed(self, exchange: Exchange) -> Stream:
        exchange.leave()
        exchange.place.pass_on(exchange.call.arrived)
        # The port says iterator; what the clients return can also be closed.
        steps = cast(
            "AsyncGenerator[StreamStep, None]", self._model.stream(self._model_call(exchange))
        )
        try:
            with self._company.absence:
                start = await anext(steps, None)
        except BaseException:
            await steps.aclose()
            raise
        if not isinstance(start, StreamStart):
            await steps.aclose()
            msg = "The provider did not begin to answer."
            raise Unavailable(msg, reason="PROVIDER_FAILED")
        stream = Stream(
            exchange,
            start,
            steps,
            idle_timeout_s=self._settings.stream_idle_timeout_s,
            outcome_timeout_s=self._settings.request_timeout_s,
            error_event=exchange.call.surface.error_event or self._error_event,
        )
        self._streams.add(stream)
        return stream

    def _model_call(self, exchange: Exchange) -> ModelCall:
        call = exchange.call
        names = call.surface.headers
        headers = tuple((name, value) for name in names if (value := call.header(name)))
        most = self._settings.max_output_tokens
        return ModelCall(
            call.request_id,
            exchange.principal,
            call.surface.dialect,
            exchange.ask.model,
            exchange.prompt,
            headers,
            min(most, exchange.most_output_tokens or most),
        )

    def _remaining(self, exchange: Exchange) -> float:
        spent = self._clock.monotonic() - exchange.call.arrived
        return max(0.001, self._settings.request_timeout_s - spent)

    async def _read(self, call: Call) -> Ask:
        """Read a body, off the event loop where it is large."""
        if len(call.body) <= READ_AT_ONCE:
            return self._checked(call)
        return await asyncio.to_thread(self._checked, call)

    def _checked(self, call: Call) -> Ask:
        ask = call.surface.read(call.body, self._settings.max_output_tokens)
        if call.surface.dialect:
            self._settings.content.guard.check(ask.body)
        return ask

    def _check_dialect(self, call: Call, model: ModelInfo) -> None:
        """Refuse a surface that none of the model's providers can be reached through."""
        if model.dialects and call.surface.dialect not in model.dialects:
            raise wrong("model", f"cannot be reached through `{call.surface.name}`")

    async def _check_length(self, ask: Ask, model: ModelInfo) -> None:
        """Refuse a prompt that is longer than the model's context, by the estimate of its texts."""
        tokens = await asyncio.to_thread(text_tokens, ask.body)
        if tokens > model.context_tokens:
            raise ContextExceeded(tokens, model.context_tokens)

    def _refuse(self, call: Call, principal: Principal | None, error: BaseException) -> None:
        """Count a request that was refused, or given up before it was admitted."""
        reason, status = "CANCELLED", CLIENT_CLOSED_REQUEST
        limit = error.admission.decision if isinstance(error, LimitExceeded) else None
        if isinstance(error, WeaverError):
            reason, status = error.reason, self._http_status(error)
        elif isinstance(error, Exception):
            reason, status = "INTERNAL", INTERNAL_SERVER_ERROR
        self._refusals.count(
            Refusal(principal, call.source_network, reason, call.surface.name, status, limit)
        )
