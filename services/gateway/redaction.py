"""Personal data taken out of JSON, with everything else left byte for byte.

What is found is replaced in the bytes that came, whatever depth of JSON it stands at: a placeholder
such as `[EMAIL_1]` needs no escape. A number that is personal data becomes a string, so that JSON
stays JSON. A body with nothing to redact is returned as the object that was given. The same value
gets the same placeholder within one request.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from services.common.errors import FieldViolation, InvalidArgument, Unavailable
from services.gateway.effort import Effort, TooMuchToCheck
from services.gateway.json_outline import Followed, Outline
from services.gateway.json_places import Literals, place
from services.gateway.personal_data import TYPES, Find
from services.gateway.privacy import REDACT_ALL, Action, Rules

_LOGPROBS: Final = re.compile(rb'"logprobs"[ \t\r\n]*+:[ \t\r\n]*+(?!null|\[\])')
_PLACEHOLDER: Final = re.compile(rb"\[(%b)_([0-9]{1,9})\]" % "|".join(TYPES).encode())
_SEPARATORS: Final = b" -.()/"
_JOINED: Final = frozenset(("CARD", "IBAN", "NATIONAL_ID", "PHONE", "SSN"))
"""Types whose values are the same whatever stands between their groups."""
_BAD_GATEWAY: Final = {"http_status": "502"}
# What stands before and after a number that is a member's value, or an item of a list. In JSON that
# stands in a string, white space is escaped.
_SPACE: Final = rb"(?:[ \t\r\n]|\\++[nrt])*+"
_BEHIND: Final = re.compile(rb"(?:[\[,:]|\\++u00(?:5[bB]|2[cC]|3[aA]))%b$" % _SPACE)
_MEMBER: Final = re.compile(rb'(\\*")%b:%b$' % (_SPACE, _SPACE))
_NUMBER_END: Final = re.compile(rb"(?:\.0+)?(?=%b[,\]}]|\\)" % _SPACE)
_DATA: Final = re.compile(rb"(?:\A|[\r\n])data:")
REACH: Final = 256
"""So many bytes before a number say whether it is a value."""
# The members that hold JSON in a string.
_JSON_INSIDE: Final = re.compile(
    rb'"(?:arguments|partial_json|input)"[ \t\r\n]*:[ \t\r\n]*$|function_call_arguments'
)


class ContentRefused(InvalidArgument):
    """A prompt holds what policy keeps from leaving.

    Args:
        what: the type, or the name of the pattern; never the value.
        field: where it stands.
    """

    def __init__(self, what: str, field: str) -> None:
        """See the class."""
        sentence = f"holds {what}, which is not allowed to leave here; take it out"
        super().__init__(
            f"`{field}` {sentence}.",
            reason="CONTENT_BLOCKED",
            violations=(FieldViolation(field, sentence),),
        )


class Redactor:
    """Redacts the texts of one request and counts what it took out.

    Args:
        rules: what is done about each type.
    """

    __slots__ = (
        "_actions",
        "_begun",
        "_effort",
        "_numbers",
        "_originals",
        "_placeholders",
        "_rules",
        "_stopped",
        "counts",
        "detector",
    )

    def __init__(self, rules: Rules = REDACT_ALL) -> None:
        """Start with nothing seen."""
        self._rules = rules
        self._actions = rules.actions
        self.detector = rules.detector
        self._placeholders: dict[tuple[str, bytes], bytes] = {}
        self._originals: dict[bytes, bytes] = {}
        self._numbers: dict[str, int] = {}
        self._begun = False
        self._effort: Effort | None = None
        self._stopped = False
        self.counts: dict[str, int] = {}

    @property
    def restores(self) -> bool:
        """Whether there are originals to put back."""
        return bool(self._originals)

    def prompt(self, body: bytes) -> bytes:
        """Return a prompt as it may leave; the same object when nothing was found.

        Raises:
            ContentRefused: it may not leave at all.
            TooMuchToCheck: it cannot be searched with the effort that one request is worth.
        """
        for pattern in self._rules.patterns:
            match = pattern.matcher.search(body.decode("utf-8", "replace"))
            if match is not None:
                position = len(body.decode("utf-8", "replace")[: match.start()].encode())
                raise ContentRefused(f"the blocked pattern `{pattern.name}`", place(body, position))
        if not self.detector.suspicious(body) or not self._rules.searches:
            return body
        self._begin(body)
        with self._effort_for_one():
            return self._spliced(body, prompt=True)

    def text(self, text: str) -> str:
        """Return a text with its personal data replaced."""
        raw = text.encode("utf-8", "surrogatepass")
        if not self.detector.suspicious(raw):
            return text
        redacted = self._replace(raw, b"", b"", _nowhere)
        return text if redacted is raw else redacted.decode("utf-8", "surrogatepass")

    def json(self, body: bytes) -> bytes:
        """Return JSON with its personal data replaced; the same object when nothing was found."""
        return self._spliced(body) if self.detector.suspicious(body) else body

    def answer(self, body: bytes) -> bytes:
        """Return an answer with its strings redacted, and without what would spell them out.

        Raises:
            Unavailable: it cannot be searched with the effort that one answer is worth.
        """
        try:
            with self._effort_for_one():
                redacted = self.json(body)
        except TooMuchToCheck:
            msg = "The provider's answer holds more than can be checked for personal data."
            raise Unavailable(msg, reason="PROVIDER_FAILED", metadata=_BAD_GATEWAY) from None
        if redacted is not body or (self._originals and _PLACEHOLDER.search(body)):
            return without_logprobs(redacted)
        return redacted

    def piece(self, raw: bytes, before: bytes, after: bytes, followed: Followed) -> bytes:
        """Return a piece of a text that comes in pieces with its personal data replaced.

        Args:
            raw: the piece.
            before: what stands before it, at least `REACH` bytes where there are so many.
            after: what is known of what stands behind it.
            followed: has followed the text up to the piece, and does through it.
        """
        taken = 0

        def quotes(place: int) -> bytes | None:
            nonlocal taken
            begin, taken = taken, place - len(before)
            return followed.quotes(raw[begin:taken])

        redacted = raw
        if self.detector.suspicious(raw):
            redacted = self._replace(raw, before, after, quotes)
        followed.pass_over(raw[taken:])
        return redacted

    def restore(self, data: bytes) -> bytes:
        """Return an answer, or events of one, with the caller's own values in it again."""
        if not self._originals or b"[" not in data:
            return data
        pieces: list[bytes] = []
        done = 0
        literals: Literals | None = None
        for match in _PLACEHOLDER.finditer(data):
            original = self._originals.get(match.group())
            if original is None:
                continue
            start, end = match.span()
            literals = literals or Literals(data)
            span = literals.around(start)
            pieces += data[done:start], _escaped(original, _depth(data, span))
            done = end
        return b"".join([*pieces, data[done:]]) if pieces else data

    def _replace(
        self,
        raw: bytes,
        before: bytes,
        after: bytes,
        quotes: Callable[[int], bytes | None],
        *,
        blocks: bool = False,
    ) -> bytes:
        """Return a text, between what stands around it, with what is found in it replaced."""
        pieces: list[bytes] = []
        done = 0
        around, shift = before + raw + after, len(before)
        for found in self.detector.find(raw, self._effort):
            action = self._actions[found.type]
            if action is Action.PASS:
                continue
            if blocks and action is Action.BLOCK:
                raise ContentRefused(f"`{found.type}`", place(raw, found.start))
            start, end, quote = found.start, found.end, b""
            number = _number(around, start + shift, end + shift, found.value, quotes)
            if number is not None:
                start, end, quote = number[0] - shift, min(number[1] - shift, len(raw)), number[2]
            if start < done:
                continue
            pieces += raw[done:start], quote, self._replaced(found), quote
            done = end
        return b"".join([*pieces, raw[done:]]) if pieces else raw

    def _spliced(self, body: bytes, *, prompt: bool = False) -> bytes:
        """Return JSON with what was found in it replaced."""
        outline = Outline(self._effort)
        followed = _begin_of_json(body)

        def quotes(place: int) -> bytes | None:
            nonlocal followed
            outline.follow(body[followed:place])
            followed = max(followed, place)
            return outline.quotes()

        return self._replace(body, b"", b"", quotes, blocks=prompt)

    def _begin(self, body: bytes) -> None:
        """Number beyond the placeholders that a prompt already holds, as from earlier turns."""
        if b"_" not in body:
            return
        for match in _PLACEHOLDER.finditer(body):
            kind, number = match[1].decode(), int(match[2])
            self._numbers[kind] = max(self._numbers.get(kind, 0), number)

    def _replaced(self, found: Find) -> bytes:
        kind = found.type
        self.counts[kind] = self.counts.get(kind, 0) + 1
        value = found.value
        if kind in _JOINED:
            value = value.translate(None, _SEPARATORS)
        elif kind == "EMAIL":
            value = value.lower()
        known = self._placeholders.get((kind, value))
        if known is None:
            number = self._numbers[kind] = self._numbers.get(kind, 0) + 1
            known = self._placeholders[(kind, value)] = b"[%b_%d]" % (kind.encode(), number)
            if self._actions[kind] is Action.PSEUDONYMIZE and not self._begun:
                self._originals[known] = found.value
        return known

    @contextmanager
    def _effort_for_one(self) -> Iterator[None]:
        """Pay, inside, for all that is found in one body."""
        effort = self._effort = Effort(self._rules.most_checks)
        if self._stopped:
            effort.stop()
        try:
            yield
        finally:
            self._effort = None

    def stop(self) -> None:
        """End what another thread searches: nobody waits for it."""
        self._stopped = True
        effort = self._effort
        if effort is not None:
            effort.stop()

    def end_prompt(self) -> None:
        """Take note that what is found from here on is not the caller's own."""
        self._begun = True


def spells(data: bytes) -> bool:
    """Say whether an event holds log probabilities."""
    return b'"logprobs"' in data and _LOGPROBS.search(data) is not None


def without_logprobs(data: bytes) -> bytes:
    """Take out the log probabilities: they spell a text that was changed, token by token."""
    if not spells(data):
        return data
    try:
        return msgspec.json.encode(scrubbed(msgspec.json.decode(data)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        msg = "The provider's answer cannot be read."
        raise Unavailable(msg, reason="PROVIDER_FAILED", metadata=_BAD_GATEWAY) from None


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


def _number(
    text: bytes, start: int, end: int, value: bytes, quotes: Callable[[int], bytes | None]
) -> tuple[int, int, bytes] | None:
    """Return where a number is that is a value of JSON, and the quotes that fit; else None."""
    if not value.isdigit() or not text[start : start + 1].isdigit():
        return None
    after = _NUMBER_END.match(text, end)
    first = start - 1 if text[start - 1 : start] == b"-" else start
    least = max(0, first - REACH)
    if after is None or _BEHIND.search(text, least, first) is None:
        return None
    quote = quotes(first)
    if quote is None:
        # In a text that only quotes JSON, what the name stands in.
        member = _MEMBER.search(text, least, first)
        quote = None if member is None else member[1]
    return None if quote is None else (first, after.end(), quote)


def _nowhere(_: int) -> None:
    """Say that no value stands there."""


def _begin_of_json(body: bytes) -> int:
    """Return where JSON begins: behind `data:` in an event of a stream."""
    if body.lstrip()[:1] in {b"{", b"[", b'"'}:
        return 0
    data = _DATA.search(body)
    return 0 if data is None else data.end()


def _depth(data: bytes, span: tuple[int, int] | None) -> int:
    """Return how often what stands in a string must be escaped."""
    if span is None:
        return 0
    before = data[max(0, span[0] - REACH) : span[0]]
    if _JSON_INSIDE.search(before) or b"function_call_arguments" in data[:400]:
        return 2
    return 1


def _escaped(value: bytes, depth: int) -> bytes:
    for _ in range(depth):
        value = msgspec.json.encode(value.decode("utf-8", "replace"))[1:-1]
    return value
