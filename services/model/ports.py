"""What this room needs from outside: providers, a place for health, a place for figures."""

from typing import Protocol

from services.common.errors import WeaverError
from services.model.call import Answer, Call, Chunk, Dialect, Facts, Generation, Headers, Usage


class Stream(Protocol):
    """A provider's answer while it arrives. Its first event is already here."""

    @property
    def content_type(self) -> str:
        """The media type."""
        ...

    @property
    def headers(self) -> Headers:
        """Response headers that may pass to the client."""
        ...

    @property
    def facts(self) -> Facts:
        """What the answer has said about itself so far."""
        ...

    async def read(self) -> Chunk | None:
        """Return the next events as soon as they are here; None once the answer is whole.

        The terminal chunk is returned only when nothing can go wrong any more.

        Raises:
            ProviderError: the answer is cut, stalls or makes no sense.
        """
        ...

    async def aclose(self) -> None:
        """Let go of the provider, within milliseconds, wherever the answer stands."""
        ...


class Provider(Protocol):
    """A vendor's API. One file each in `services.model.providers`.

    Dialects that a provider does not speak itself are added around it, by
    `services.model.dialects.translation.Translating`, which is a provider again. What cannot be
    said in the provider's own dialect is a `ProviderError` with `elsewhere`: the provider was not
    called, and another target may be able to answer.
    """

    @property
    def name(self) -> str:
        """The name in settings, records, metrics and health."""
        ...

    @property
    def dialects(self) -> frozenset[Dialect]:
        """The dialects that it can be asked in."""
        ...

    async def generate(self, call: Call) -> Answer:
        """Return the whole answer; cancelling lets go of the provider at once.

        Raises:
            ProviderError: there is none.
        """
        ...

    async def open(self, call: Call) -> Stream:
        """Return the answer as a stream, once its first event is here.

        Raises:
            ProviderError: there is none.
        """
        ...


class AnswerStream(Protocol):
    """An answer on its way to a caller, wherever it comes from."""

    @property
    def content_type(self) -> str:
        """The media type."""
        ...

    @property
    def headers(self) -> Headers:
        """Response headers that go before it."""
        ...

    @property
    def error(self) -> WeaverError | None:
        """Why the answer is not whole; None while it arrives, and when it is."""
        ...

    async def read(self) -> Chunk | None:
        """Return the next events; None at the end, whole or not."""
        ...

    def generation(self) -> Generation:
        """Return what is known about the call; to be asked once, after the end."""
        ...

    async def aclose(self) -> None:
        """Let go of whoever answers, wherever the answer stands."""
        ...


class Health(Protocol):
    """Where the state of dependencies is told."""

    def set(self, name: str, serving: bool, detail: str = "") -> None:  # noqa: FBT001 - common's signature
        """Note whether a dependency works."""
        ...


class Meter(Protocol):
    """Where figures are kept."""

    def attempt(
        self, provider: str, model: str, status: str, duration_s: float, operation: str
    ) -> None:
        """Count one call of a provider; `status` is `ok` or a reason in lower case."""
        ...

    def first_byte(self, provider: str, model: str, duration_s: float, operation: str) -> None:
        """Note how long a stream's first event took."""
        ...

    def tokens(
        self, provider: str, model: str, usage: Usage, cost_micros: int, operation: str
    ) -> None:
        """Count what a call used, and what it cost."""
        ...

    def skipped(self, provider: str, model: str, reason: str) -> None:
        """Count one call that passed a target over; `reason` is `open` or `full`."""
        ...
