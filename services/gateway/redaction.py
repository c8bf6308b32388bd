"""Personal data taken out of JSON, with everything else left byte for byte.

The unit of work is one string, a member's name or a value: it is decoded, redacted, encoded again
and spliced into its place. Numbers, white space and order stay as they came, and a body with
nothing to redact is returned as the object that was given. The same value gets the same placeholder
within one request.
"""

import re
from typing import Any, Final

import msgspec

from services.common.errors import Unavailable
from services.gateway.personal_data import LONGEST_MATCH, find, suspicious

# Possessive, so that no input makes it go back.
_LITERAL: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
# What could hold digits and letters in any order and is no text: a file in a data URI, a long run
# of nothing but base64 (a file, a signature), what a vendor has encrypted.
_FILE: Final = re.compile(
    rb'"(?:data:[a-z]++\\?/[A-Za-z0-9.+-]++;base64,[A-Za-z0-9+/=\\]*+'
    rb'|[A-Za-z0-9+/\\]{128,}+=*+|gAAAA[A-Za-z0-9_-]{64,}+=*+)"'
)
# What a match can begin with and not yet be complete: an IBAN or digits in groups, the last word.
_UNFINISHED: Final = re.compile(r"(?:\b[A-Z]{2}[0-9]{2}[A-Z0-9 ]*|\+?[0-9][0-9 ().-]*|[^\s]+)$")
# The same for what can be much longer: a token, a private key.
_LONG_UNFINISHED: Final = re.compile(
    r"(?:\beyJ[A-Za-z0-9_.-]*|-----BEGIN[A-Z ]*(?:-{0,5}|-----[A-Za-z0-9+/=\s\\]*))$"
)
_LOGPROBS: Final = re.compile(rb'"logprobs"[ \t\r\n]*:[ \t\r\n]*(?!null)')
LONGEST_SECRET = 8192


class Redactor:
    """Redacts the texts of one request and counts what it took out."""

    __slots__ = ("_numbers", "_placeholders", "counts")

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._placeholders: dict[tuple[str, str], str] = {}
        self._numbers: dict[str, int] = {}
        self.counts: dict[str, int] = {}

    def text(self, text: str) -> str:
        """Return a text with its personal data replaced, such as by `[EMAIL_1]`."""
        pieces: list[str] = []
        done = 0
        for found in find(text):
            value = text[found.start : found.end]
            pieces += text[done : found.start], self._placeholder(found.type, value)
            done = found.end
            self.counts[found.type] = self.counts.get(found.type, 0) + 1
        return "".join([*pieces, text[done:]]) if pieces else text

    def json(self, body: bytes) -> bytes:
        """Return JSON with its strings redacted; the same object when nothing was found."""
        if not suspicious(body):
            return body
        pieces: list[bytes] = []
        done = 0
        for match in _LITERAL.finditer(body):
            literal = match.group()
            if not suspicious(literal) or _FILE.fullmatch(literal):
                continue
            text = _decoded(literal)
            redacted = self.text(text)
            if redacted is not text:
                pieces += body[done : match.start()], msgspec.json.encode(redacted)
                done = match.end()
        return b"".join([*pieces, body[done:]]) if pieces else body

    def answer(self, body: bytes) -> bytes:
        """Return an answer with its strings redacted, and without what would spell them out."""
        redacted = self.json(body)
        return redacted if redacted is body else without_logprobs(redacted)

    def _placeholder(self, kind: str, value: str) -> str:
        known = self._placeholders.get((kind, value))
        if known is None:
            number = self._numbers[kind] = self._numbers.get(kind, 0) + 1
            known = self._placeholders[(kind, value)] = f"[{kind}_{number}]"
        return known


def without_logprobs(data: bytes) -> bytes:
    """Take out the log probabilities: they spell a text that was changed, token by token."""
    if not _LOGPROBS.search(data):
        return data
    try:
        return msgspec.json.encode(scrubbed(msgspec.json.decode(data)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        msg = "The provider's answer cannot be read."
        metadata = {"http_status": "502"}
        raise Unavailable(msg, reason="PROVIDER_FAILED", metadata=metadata) from None


def scrubbed(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return JSON with every `logprobs` emptied, in whichever dialect it stands."""
    if isinstance(value, list):
        return [scrubbed(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: ([] if isinstance(item, list) else None) if name == "logprobs" else scrubbed(item)
        for name, item in value.items()
    }


def _decoded(literal: bytes) -> str:
    try:
        return msgspec.json.decode(literal, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        # What is no text as it stands is searched as far as it can be read.
        return literal[1:-1].decode("utf-8", "replace")


class RunningText:
    """One text of a stream, redacted across the borders of its chunks.

    What could be the beginning of a match is held back until it is decided, and no more than
    `LONGEST_MATCH` characters of it, `LONGEST_SECRET` of a token or key.

    Args:
        redactor: the request's.
    """

    __slots__ = ("_held", "_redactor")

    def __init__(self, redactor: Redactor) -> None:
        """See the class."""
        self._redactor = redactor
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take the next piece and return what can be released."""
        text = self._held + piece
        unfinished = _UNFINISHED.search(text, max(0, len(text) - LONGEST_MATCH))
        cut = len(text) if unfinished is None else unfinished.start()
        secret = _LONG_UNFINISHED.search(text, max(0, len(text) - LONGEST_SECRET))
        if secret is not None:
            cut = min(cut, secret.start())
        cut = _outside_matches(text, cut)
        self._held = text[cut:]
        return self._redactor.text(text[:cut])

    def finish(self) -> str:
        """Return what was held back: no more is to come."""
        held, self._held = self._held, ""
        return self._redactor.text(held)


def _outside_matches(text: str, cut: int) -> int:
    """Move a cut to the left so that it falls into no match, unless the match is too long."""
    for found in find(text):
        if found.start < cut < found.end and found.end - found.start <= LONGEST_MATCH:
            return found.start
    return cut
