"""OpenAI's API, and every server that speaks it: vLLM, TGI, Ollama, llama.cpp, Groq.

Bodies go out as they came, and come back as the provider sent them; the one edit is asking a
stream for its usage, which is taken out again when the client did not ask.
"""

from collections.abc import Callable, Mapping

from services.common.clock import Clock
from services.common.errors import InvalidArgument
from services.model import openai_responses
from services.model.call import Answer, Call, Dialect, Headers
from services.model.event_stream import EventStream
from services.model.failure import ProviderError
from services.model.headers import TO_OPENAI, to_provider
from services.model.openai_chat import StreamWatch, plan_stream, read_answer
from services.model.upstream import Endpoint
from services.model.vendor import Vendor, request_id_headers

_PATHS: Mapping[Dialect, str] = {
    Dialect.OPENAI_CHAT: "/chat/completions",
    Dialect.OPENAI_EMBEDDINGS: "/embeddings",
    Dialect.OPENAI_RESPONSES: "/responses",
}
_NO_SUCH_PATH = frozenset({404, 405})


class OpenAI:
    """A server with OpenAI's API.

    Args:
        endpoint: its base URL, with the credential among its headers.
        clock: for `Retry-After` dates.
        ask_usage: whether to ask streams for their usage when the client did not.
        name: the provider's name in settings, records, metrics and health.
        prefix: returns what goes before the path for a model, as Azure's deployments want it.
    """

    dialects = frozenset(_PATHS)

    def __init__(
        self,
        endpoint: Endpoint,
        clock: Clock,
        *,
        ask_usage: bool = True,
        name: str = "openai",
        prefix: Callable[[str], str] | None = None,
    ) -> None:
        """See the class."""
        self.name = name
        self._vendor = Vendor(endpoint, clock)
        self._ask_usage = ask_usage
        self._prefix = prefix

    async def generate(self, call: Call) -> Answer:
        """Return the whole answer."""
        path, headers = self._path(call), _request_headers(call)
        if call.dialect is not Dialect.OPENAI_RESPONSES:
            return await self._vendor.whole(path, call.body, headers, read_answer)
        try:
            return await self._vendor.whole(path, call.body, headers, openai_responses.read_answer)
        except ProviderError as failure:
            raise _explained(failure) from None

    async def open(self, call: Call) -> EventStream:
        """Return the answer as a stream, once its first event is here."""
        path, headers = self._path(call), _request_headers(call)
        if call.dialect is not Dialect.OPENAI_RESPONSES:
            plan = plan_stream(call.body, ask_usage=self._ask_usage)
            return await self._vendor.streamed(path, plan.body, headers, StreamWatch(plan))
        watch = openai_responses.StreamWatch()
        try:
            return await self._vendor.streamed(path, call.body, headers, watch)
        except ProviderError as failure:
            raise _explained(failure) from None

    def _path(self, call: Call) -> str:
        path = _PATHS[call.dialect]
        if self._prefix is None:
            return path
        prefix = self._prefix(call.model)
        if call.dialect is Dialect.OPENAI_RESPONSES:
            # Azure serves them beside its deployments, and finds the model in the body.
            prefix = prefix.partition("/deployments/")[0]
        return prefix + path


def _request_headers(call: Call) -> Headers:
    headers = to_provider(call.headers, TO_OPENAI)
    return headers + request_id_headers(call, "x-request-id", "x-client-request-id")


def _explained(failure: ProviderError) -> ProviderError:
    """Say of a server without responses that it has none; other servers may have them."""
    about = failure.error.metadata.get("vendor_body", "")
    if failure.http_status not in _NO_SUCH_PATH or "model" in about:
        return failure
    sentence = (
        f"The model's provider does not speak OpenAI's responses: it answers {failure.http_status}."
        " Use /v1/chat/completions."
    )
    error = InvalidArgument(sentence, reason="PROVIDER_REJECTED", metadata={"http_status": "404"})
    return ProviderError(error, http_status=failure.http_status)
