"""What a pair of dialects must be able to say to each other."""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from services.model.call import Call, Dialect, Facts, Usage
from services.model.usage import counted


class Asked(msgspec.Struct, frozen=True):
    """A call that is asked in another dialect than the client's.

    Args:
        call: the client's own.
        body: the request in the provider's dialect.
        left_out: the names of hints that have no counterpart there.
        created: when it was asked, in Unix seconds.
    """

    call: Call
    body: bytes
    left_out: frozenset[str]
    created: int

    def counted(self, facts: Facts) -> Usage:
        """Return what the call used, as the provider said, or an estimate."""
        return counted(facts, self.call.body)


class Events(Protocol):
    """Translates the events of one stream."""

    def take(self, data: bytes | None) -> bytes:
        """Take an event's data, None for a comment; return what it is in the client's dialect.

        Raises:
            ProviderError: it cannot be said there.
        """
        ...

    def finish(self, facts: Facts) -> bytes:
        """Return the events that say that the answer is complete."""
        ...


class Translator(Protocol):
    """Translates requests from the client's dialect, and answers back to it."""

    @property
    def dialect(self) -> Dialect:
        """The provider's dialect."""
        ...

    def request(self, call: Call, left_out: set[str]) -> Mapping[str, Any]:
        """Return a request in the provider's dialect.

        Args:
            call: the client's.
            left_out: takes the names of hints that have no counterpart.

        Raises:
            ProviderError: naming the field that has no counterpart.
        """
        ...

    def answer(self, body: bytes, facts: Facts, asked: Asked) -> Mapping[str, Any]:
        """Return a whole answer in the client's dialect.

        Raises:
            ProviderError: it cannot be said there.
        """
        ...

    def events(self, asked: Asked) -> Events:
        """Return what translates one stream."""
        ...

    def error(self, vendor: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a provider's error object in the client's dialect."""
        ...
