"""Personal data taken out of JSON, with everything else left byte for byte.

What is found is replaced in the bytes that came, whatever depth of JSON it stands at: a placeholder
such as `[EMAIL_1]` needs no escape. A number that is personal data becomes a string, so that JSON
stays JSON. A body with nothing to redact is returned as the object that was given. The same value
gets the same placeholder within one request.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from services.common.errors import Unavailable
from services.gateway.attachments import (
    Carrier,
    carriers,
    carriers_of_text,
    is_json,
    may_carry,
)
from services.gateway.content_errors import DEEPEST, ContentRefused, Unsearchable
from services.gateway.effort import Effort, TooMuchToCheck
from services.gateway.file_references import references
from services.gateway.json_numbers import REACH, begin_of_json, nowhere, number_in_json
from services.gateway.json_outline import Followed, Outline, Standing
from services.gateway.json_places import Literals, place
from services.gateway.log_probabilities import BAD_GATEWAY, without_logprobs
from services.gateway.personal_data import TYPES, Find
from services.gateway.privacy import REDACT_ALL, Action, Rules
from services.gateway.text_encodings import encoding

_PLACEHOLDER: Final = re.compile(rb"\[(%b)_([0-9]{1,9})\]" % "|".join(TYPES).encode())
_SEPARATORS: Final = b" -.()/"
_JOINED: Final = frozenset(("CARD", "IBAN", "NATIONAL_ID", "PHONE", "SSN"))
"""Types whose values are the same whatever stands between their groups."""
_FILE: Final = "a file that cannot be searched (`%s`)"
# The members that hold JSON in a string.
_JSON_INSIDE: Final = re.compile(
    rb'"(?:arguments|partial_json|input)"[ \t\r\n]*:[ \t\r\n]*$|function_call_arguments'
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
        rules = self._rules
        if rules.patterns:
            self._check_patterns(body)
        if rules.blocked_files:
            for kind, field in references(body):
                if kind in rules.blocked_files:
                    raise ContentRefused(_FILE % kind, field)
        if not self.detector.suspicious(body):
            return body
        with self._effort_for_one():
            return self._searched(body, 0)

    def _searched(self, body: bytes, depth: int) -> bytes:
        """Return a prompt, or a document in it, as it may leave."""
        if may_carry(body):
            body = self._unpacked(body, depth)
        if not self._rules.searches or not self.detector.suspicious(body):
            return body
        self._begin(body)
        return self._spliced(body, prompt=True)

    def _unpacked(self, body: bytes, depth: int) -> bytes:
        """Return a body whose documents are as they may leave."""
        pieces: list[bytes] = []
        done = 0
        in_json = depth == 0 or is_json(body)
        for carrier in carriers(body, self._effort) if in_json else carriers_of_text(body):
            contents = self._contents(body, carrier, depth)
            if contents:
                pieces += body[done : carrier.start], carrier.literal(contents)
                done = carrier.end
        return b"".join([*pieces, body[done:]]) if pieces else body

    def _contents(self, body: bytes, carrier: Carrier, depth: int) -> dict[int, bytes]:
        """Return the documents of one string that leave otherwise than they came."""
        contents: dict[int, bytes] = {}
        for number, one in enumerate(carrier.carried):
            if one.content is None and not carrier.is_whole(one):
                continue
            blocked = self._rules.blocked_files and one.kinds & self._rules.blocked_files
            if blocked:
                raise ContentRefused(_FILE % min(blocked), place(body, carrier.start))
            if not one.is_text:
                continue
            if one.content is None or depth == DEEPEST:
                raise Unsearchable(place(body, carrier.start), nested=one.content is not None)
            try:
                # JSON in a string is searched with the body; only what it carries is not.
                content = (
                    self._unpacked(one.content, depth + 1)
                    if one.json
                    else self._document(one.content, one.media_type, depth + 1)
                )
            except ContentRefused as refused:
                raise ContentRefused(refused.what, place(body, carrier.start)) from None
            except Unsearchable as unsearchable:
                field = place(body, carrier.start)
                raise Unsearchable(field, nested=unsearchable.nested) from None
            if content is not one.content:
                contents[number] = content
        return contents

    def _document(self, content: bytes, media_type: str | None, depth: int) -> bytes:
        """Return a document's text as it may leave, in the encoding that it has."""
        name = encoding(content, media_type)
        text = content
        if name is not None:
            try:
                text = content.decode(name).encode()
            except UnicodeError:
                name = None
        self._check_patterns(text)
        searched = self._searched(text, depth)
        if searched is text:
            return content
        return searched if name is None else searched.decode().encode(name)

    def _check_patterns(self, body: bytes) -> None:
        for pattern in self._rules.patterns:
            text = body.decode("utf-8", "replace")
            match = pattern.matcher.search(text)
            if match is not None:
                position = len(text[: match.start()].encode())
                raise ContentRefused(f"the blocked pattern `{pattern.name}`", place(body, position))

    def text(self, text: str) -> str:
        """Return a text with its personal data replaced."""
        raw = text.encode("utf-8", "surrogatepass")
        if not self.detector.suspicious(raw):
            return text
        redacted = self._replace(raw, b"", b"", nowhere)
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
            raise Unavailable(msg, reason="PROVIDER_FAILED", metadata=BAD_GATEWAY) from None
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

        def quotes(place: int) -> Standing:
            nonlocal taken
            begin, taken = taken, place - len(before)
            return followed.standing(raw[begin:taken])

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
        quotes: Callable[[int], Standing],
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
            number = number_in_json(around, start + shift, end + shift, found.value, quotes)
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
        followed = begin_of_json(body)

        def quotes(place: int) -> Standing:
            nonlocal followed
            outline.follow(body[followed:place])
            followed = max(followed, place)
            return outline.standing

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
