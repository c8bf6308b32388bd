"""Personal data and secrets in a text: found by a linear scan, confirmed by a check.

Matching is RE2's, so no input can stall it. A pattern has a bounded length, or always succeeds once
it has begun to repeat: what fails is searched again from its second byte and costs no more than the
bound. The checks run only on what the scan found.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Final, NamedTuple

import re2

from services.gateway import identity_documents as documents
from services.gateway import national_phones as phones
from services.gateway import secret_formats as secrets
from services.gateway.attachments import TRIGGER as CARRIED
from services.gateway.effort import BYTES_PER_CHECK, MOST_KNOWN, Effort
from services.gateway.folding import TRIGGER, Shadow, plain_text
from services.gateway.number_checks import is_public_address, parts

TYPES: Final = (
    "API_KEY",
    "CARD",
    "EMAIL",
    "IBAN",
    "IP_ADDRESS",
    "NATIONAL_ID",
    "PASSPORT",
    "PASSWORD",
    "PHONE",
    "PRIVATE_KEY",
    "SSN",
    "TOKEN",
)
"""What can be found, as placeholders and records name it."""

LONGEST_MATCH: Final = 512
"""No detector matches longer, but for tokens and private keys."""

LONGEST_SECRET: Final = 8192
"""Of a token or a private key so much is held together in a stream."""


class Find(NamedTuple):
    """One piece of personal data.

    Args:
        type: one of `TYPES`.
        start: where it begins, in bytes.
        end: where it ends.
        value: what it says, without escapes and lookalikes.
        since: where that begins by which it was recognised, such as a name before it.
    """

    type: str
    start: int
    end: int
    value: bytes
    since: int


_REACH: Final = 32
"""No check looks further behind its candidate."""
_GOES_ON: Final = frozenset((b":", b"@", b"_", b"%"))


class _Span(NamedTuple):
    type: str
    start: int
    end: int


_Confirm = Callable[[bytes, int, int], tuple[_Span, ...] | None]
_Pattern = tuple[bytes, _Confirm]
"""A pattern, and what says of a candidate what it holds.

None when that is nothing, and what is in it is searched again.
"""


def _whole(kind: str, check: Callable[[bytes], bool] = bool) -> _Confirm:
    def confirm(data: bytes, start: int, end: int) -> tuple[_Span, ...] | None:
        return (_Span(kind, start, end),) if check(data[start:end]) else None

    return confirm


def _nothing(_: bytes, start: int, end: int) -> tuple[_Span, ...]:
    """Pass over a file: it could hold digits and letters in any order and is no text."""
    return (_Span("", start, end),)


def _token(data: bytes, start: int, end: int) -> tuple[_Span, ...]:
    key = data.find(b"-----BEGIN", start, end)
    if key >= 0:
        end = key
    size = secrets.token_end(data[start:end])
    if size is None:
        return (_Span("", end, end),)
    # What follows in a long run is not searched again, since it could be tokens without end.
    return (_Span("TOKEN", start, end if end - start > LONGEST_SECRET else start + size),)


def _private_key(data: bytes, start: int, end: int) -> tuple[_Span, ...]:
    if not secrets.is_private_key(data[start:end]):
        return ()
    return (_Span("PRIVATE_KEY", start, start + len(data[start:end].rstrip(b" \\\x01\r\n"))),)


def _iban(data: bytes, start: int, end: int) -> tuple[_Span, ...] | None:
    size = documents.iban_end(data[start:end])
    if size is None or data[start + size : start + size + 1].isalnum():
        return None
    return (_Span("IBAN", start, start + size),)


def _numbers(national: phones.NationalPhones | None) -> _Confirm:
    """Return what tells what a run of digits holds."""

    def number(data: bytes, start: int, end: int) -> tuple[_Span, ...]:
        run, after = data[start:end], data[end : end + 2]
        before = data[start - 1 : start] if start else b""
        spans = [
            _Span(kind, start + first, start + last)
            for kind, first, last in parts(run, before, after, national)
        ]
        # The last span says that nothing more is to be looked for in the run; but its last group
        # may begin something else, such as an address.
        after = after[:1]
        if after.isalnum() or after in _GOES_ON:
            last = start + len(run.rstrip(b"0123456789"))
            if last > (spans[-1].end if spans else start):
                end = last
        return (*spans, _Span("", end, end))

    return number


def _address6(text: bytes) -> bool:
    return is_public_address(text.rstrip(b":").decode())


def _named(confirm: Callable[[bytes], tuple[str, int, int] | None], reach: int = 0) -> _Confirm:
    """Return what confirms a value by what stands before it; `reach` looks beyond the end."""

    def confirmed(data: bytes, start: int, end: int) -> tuple[_Span, ...] | None:
        found = confirm(data[start : end + reach])
        return None if found is None else (_Span(found[0], start + found[1], start + found[2]),)

    return confirmed


# A file in a data URI, a long run of nothing but base64, what a vendor has encrypted.
_FILE: Final = (
    rb"data:[a-z]{1,16}\x01?/[A-Za-z0-9.+-]{1,80}(?:;[A-Za-z0-9=._-]{1,24}){0,3};base64,[A-Za-z0-9+/=\x01]*"
    rb"|[A-Za-z0-9+/\x01]{128,}=*|gAAAA[A-Za-z0-9_-]{64,}=*"
)
# International, whole, in groups, behind an international prefix, dotted.
_DIGITS: Final = (
    rb"\+[0-9](?:[ ().\x2f-]{0,3}[0-9]){6,}|%B[0-9]{13,}(?:[ .\x2f-][0-9]+)*"
    rb"|%B[0-9]{1,5}[ .\x2f-][ (]?[0-9](?:[ ().\x2f-]{0,2}[0-9]){5,}|%B00[1-9][0-9]{7,12}"
    rb"|%B[0-9]{6,12}[ .\x2f-][ (]?[0-9](?:[ ().\x2f-]{0,2}[0-9]){2,}"
    rb"|%B[0-9]{1,3}(?:\.[0-9]{1,3}){3,}"
)
# The order is the precedence where two could match at one place. `%B` stands for a word boundary:
# the scan that looks for candidates in raw JSON leaves it out, since an escape such as `\n` before
# a match would hide it.
_PATTERNS: Final[tuple[_Pattern, ...]] = (
    (_FILE, _nothing),
    (secrets.PRIVATE_KEY, _private_key),
    (b"%B" + secrets.TOKEN, _token),
    (b"%B(?:" + secrets.API_KEY + b")", _whole("API_KEY", secrets.is_api_key)),
    (secrets.SLACK_HOOK, _whole("API_KEY")),
    (b"%B" + secrets.NAMED_SECRET, _named(secrets.named_secret)),
    (secrets.URL_PASSWORD, _named(secrets.url_password)),
    (documents.MACHINE_READABLE, _whole("PASSPORT", documents.is_machine_readable)),
    (documents.EMAIL, _whole("EMAIL", documents.is_email)),
    (b"%B" + documents.NAMED_NUMBER, _named(documents.named_number, documents.LONGEST_VALUE)),
    (b"%B" + documents.IBAN, _iban),
    (
        rb"%B[23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}",
        _whole("IP_ADDRESS", _address6),
    ),
    (b"%B(?:" + documents.LETTERED + b")%B", _whole("NATIONAL_ID", documents.is_national_id)),
)


class Detector:
    """Finds personal data.

    Args:
        regions: where telephone numbers are written without a country code, ISO 3166 codes.
    """

    __slots__ = ("_confirm", "_exact", "_kinds", "_loose", "regions")

    def __init__(self, regions: tuple[str, ...] = ()) -> None:
        """See the class; compiling takes a tenth of a second."""
        self.regions = regions
        national = phones.NationalPhones(regions) if regions else None
        number = _numbers(national)
        patterns: tuple[_Pattern, ...] = (*_PATTERNS, (_DIGITS, number))
        if national is not None:
            named = _named(national.named_number, phones.LONGEST_VALUE)
            begin = (*_PATTERNS, (b"%B" + phones.NAMED, named), (phones.RUNS, number))
            patterns = (*begin, (_DIGITS, number), (phones.SHORT_RUNS, number))
        every = [pattern for pattern, _ in patterns]
        # Without groups, so that RE2 needs nothing but its automata; the set tells which it was.
        self._exact = re2.compile(_joined(every, rb"\b"), latin_1())
        self._kinds = re2.Set.FullMatchSet(latin_1())
        for pattern in every:
            self._kinds.Add(pattern.replace(b"%B", rb"\b"))
        self._kinds.Compile()
        self._loose = re2.compile(_joined([*every[1:], TRIGGER, CARRIED], b""), latin_1())
        self._confirm: tuple[_Confirm, ...] = tuple(confirm for _, confirm in patterns)

    def suspicious(self, raw: bytes) -> bool:
        r"""Return whether raw JSON may hold personal data; linear, no false negative."""
        return self._loose.search(raw) is not None

    def find(self, raw: bytes, effort: Effort | None = None) -> Iterator[Find]:
        """Yield the personal data of a text or of JSON, from left to right, without overlaps.

        Escapes are seen through at every depth, and what is found never begins or ends inside one.

        Args:
            raw: the text.
            effort: pays for each candidate; None for a text of bounded length.

        Raises:
            TooMuchToCheck: there are more candidates than may be looked at.
        """
        shadow = Shadow(raw, effort)
        data = shadow.data
        position = 0
        while (match := self._exact.search(data, position)) is not None:
            start, end = match.span()
            if effort is not None:
                effort.spend(0)
            spans = self._spans(data, start, end, effort)
            if spans is None:
                position = start + 1
                continue
            for what, first, last in spans:
                if what:
                    value = plain_text(data[first:last])
                    yield Find(what, shadow.at(first), shadow.at(last), value, shadow.at(start))
            position = spans[-1].end if spans else end

    def _spans(
        self, data: bytes, start: int, end: int, effort: Effort | None
    ) -> tuple[_Span, ...] | None:
        """Return what a candidate holds; what was asked before in one request is remembered."""
        if effort is None or end - start > LONGEST_MATCH:
            return self._checked(data, start, end, effort)
        around = data[max(0, start - 1) : end + _REACH], start == 0, end - start
        if around not in effort.known:
            spans = self._checked(data, start, end, effort)
            if len(effort.known) < MOST_KNOWN:
                effort.known[around] = None if spans is None else _moved(spans, -start)
            return spans
        known = effort.known[around]
        return None if known is None else _moved(known, start)

    def _checked(
        self, data: bytes, start: int, end: int, effort: Effort | None
    ) -> tuple[_Span, ...] | None:
        for kind in sorted(self._kinds.Match(data[start:end])):
            if kind and effort is not None and end - start >= BYTES_PER_CHECK:
                # Not so the first, which passes over a file.
                effort.spend(end - start)
            spans: tuple[_Span, ...] | None = self._confirm[kind](data, start, end)
            if spans is not None:
                return spans
        return None


def _moved(spans: Iterable[tuple[str, int, int]], by: int) -> tuple[_Span, ...]:
    return tuple(_Span(kind, first + by, last + by) for kind, first, last in spans)


def _joined(patterns: list[bytes], boundary: bytes) -> bytes:
    return b"|".join(pattern.replace(b"%B", boundary) for pattern in patterns)


def latin_1() -> re2.Options:
    """Return RE2's options for patterns of bytes."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = 64 << 20
    options.log_errors = False
    return options


@lru_cache(maxsize=16)
def detector(regions: tuple[str, ...] = ()) -> Detector:
    """Return what finds personal data in texts that are written in these regions."""
    return Detector(regions)


_ANYWHERE: Final = detector()
find: Final = _ANYWHERE.find
suspicious: Final = _ANYWHERE.suspicious
"""The same without any region."""
