"""Telephone numbers as people of a region write them to each other: without a country code.

Few digits can be a number of some region, so more is asked of them than to be valid: they stand in
groups that are usual there, or whole behind a zero that dials out of an area, or behind a word such
as "phone". The numbering plans and formats are those of `phonenumbers`.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final, NamedTuple

import phonenumbers
from phonenumbers.phonemetadata import PhoneMetadata

LEAST_DIGITS: Final = 7
MOST_DIGITS: Final = 15
_LEAST_WHOLE: Final = 10
_MOST_GROUPS: Final = 6
_AREAS: Final = range(3, 6)
_TYPES: Final = (
    "fixed_line",
    "mobile",
    "toll_free",
    "premium_rate",
    "shared_cost",
    "personal_number",
    "voip",
    "uan",
    "pager",
    "voicemail",
)
_NOT_DIGITS: Final = re.compile(r"[^0-9]+")
# Groups that are usual for so many digits where a plan's own format says another.
_DATES: Final = frozenset(((2, 2, 4), (4, 2, 2)))
_USUAL: Final = {
    9: (frozenset((6, 3)), frozenset((7, 4, 2)), frozenset((6, 4, 2))),
    8: (frozenset((6, 4, 2)), frozenset((5, 3))),
}
_EXAMPLES: Final = frozenset(
    "".join(str((first + step * at) % 10) for at in range(size))
    for first in range(10)
    for step in (0, 1, 9)
    for size in range(LEAST_DIGITS, MOST_DIGITS + 1)
)
"""Digits in a row, up, down or the same again: nobody's number."""
_YEARS: Final = re.compile(r"(?:(?:19|20)[0-9]{2}){2}")

WORDS: Final = (
    b"telephone|phone|tel|mobile|cellphone|cellular|cell|fax|whatsapp|sms|telefon|telefax|handy|mobil"
    b"|mobilfunk|t\xc3\xa9l\xc3\xa9phone|t\xc3\xa9l|portable|tel\xc3\xa9fono|telefono|m\xc3\xb3vil|celular"
    b"|telefone|telem\xc3\xb3vel|cellulare|telefoon|mobiel|gsm|puhelin"
    b"|rufnummer|dial|call(?: me| us| him| her| them)?"
)
"""What says that a telephone number follows."""
_GAP: Final = (
    rb"[\x22'\\\x01 :=#.(]{0,8}(?:is |are |at |on |nr\.? ?|no\.? ?)?[\x22'\\\x01 :=#.(]{0,4}"
)
_NUMBERED: Final = rb"(?:s|[ _-]?(?:number|nummer|no|nr|num|n\xc2\xb0))?"
NAMED: Final = rb"(?i:" + WORDS + rb")(?i:" + _NUMBERED + _GAP + rb")[0-9]"
"""A word and the first digit behind it; a scan is to put a word boundary before it."""
LONGEST_VALUE: Final = 32
_VALUE: Final = re.compile(
    rb"(?i:" + WORDS + rb")(?i:" + _NUMBERED + rb"(?![A-Za-z0-9])" + _GAP + rb")"
    rb"([0-9](?:[ ().\x2f-]{0,2}[0-9]){6,14})(?![0-9A-Za-z_])"
)
UNFINISHED: Final = (
    rb"\b(?i:" + WORDS + rb")(?i:[ _-]?[a-z\x80-\xff]{0,12}[\x22'\\\x01 :=#.(a-z\x80-\xff]{0,24})"
    rb"[0-9 ().\x2f\x80-\xff-]{0,48}"
)
"""How a text can end whose next piece makes it a named number."""
RUNS: Final = (
    rb"\([0-9 ]{1,7}\)[ \x2f.-]{0,3}[0-9](?:[ ().\x2f-]{0,3}[0-9]){3,}"
    rb"|%B0[0-9]{0,6}[ ().\x2f-]{1,3}[0-9](?:[ ().\x2f-]{0,3}[0-9]){3,}"
    rb"|%B0[0-9]{8,14}%B"
)
"""Runs of digits that every search would look at in part, or not at all."""
SHORT_RUNS: Final = rb"%B[0-9]{4,5}[ -][0-9]{4,5}%B|%B[0-9]{3}[ -][0-9]{2}[ -][0-9]{3}%B"
"""Those that no other search looks at."""


class _Format(NamedTuple):
    pattern: re.Pattern[str]
    leading: re.Pattern[str] | None
    text: str
    trunk_needed: bool
    trunk_apart: bool


class Style(NamedTuple):
    """How the groups of a candidate are written.

    Args:
        ends: how many digits stand behind each gap.
        marked: whether more than spaces and dots holds the groups together.
        apart: whether the first group is in brackets.
        even: whether all gaps but the first are alike, and no group has one digit.
    """

    ends: frozenset[int]
    marked: bool
    apart: bool
    even: bool


class _Region:
    """The plan of one region."""

    __slots__ = ("_formats", "_lengths", "_trunk", "_valid")

    def __init__(self, region: str) -> None:
        plan: Any = PhoneMetadata.metadata_for_region(region)
        main = phonenumbers.region_code_for_country_code(plan.country_code)
        formats: Any = PhoneMetadata.metadata_for_region(main) or plan
        kinds = (getattr(plan, name) for name in _TYPES)
        patterns = {kind.national_number_pattern for kind in kinds if kind is not None}
        self._trunk: str = plan.national_prefix or ""
        self._lengths = frozenset(plan.general_desc.possible_length)
        self._valid = re.compile("|".join(f"(?:{pattern})" for pattern in patterns if pattern))
        self._formats = tuple(_read(form, self._trunk) for form in formats.number_format)

    def holds(self, digits: str, style: Style, *, named: bool) -> bool:
        for number, trunk in self._readings(digits):
            if self._valid.fullmatch(number) is None:
                continue
            form = next((form for form in self._formats if _fits(form, number)), None)
            if named:
                return True
            if form is None or (form.trunk_needed and not trunk):
                continue
            if _grouped_well(digits, number, style, form, trunk):
                return True
        return False

    def _readings(self, digits: str) -> Iterator[tuple[str, str]]:
        """Yield the number with what is dialled before it taken off, and that."""
        trunk = self._trunk
        if trunk and digits.startswith(trunk) and len(digits) - len(trunk) in self._lengths:
            yield digits[len(trunk) :], trunk
        if len(digits) in self._lengths:
            yield digits, ""


class NationalPhones:
    """Recognises the telephone numbers of some regions.

    Args:
        regions: ISO 3166 codes, such as `US`.
    """

    __slots__ = ("_regions",)

    def __init__(self, regions: tuple[str, ...]) -> None:
        """See the class."""
        self._regions = tuple(map(_region, regions))

    def holds(self, digits: bytes, style: Style, *, named: bool = False) -> bool:
        """Say whether digits are a number of one of the regions, written as numbers are there."""
        text = digits.decode()
        if (not style.ends and text in _EXAMPLES) or (not named and _YEARS.fullmatch(text)):
            return False
        return any(region.holds(text, style, named=named) for region in self._regions)

    def named_number(self, text: bytes) -> tuple[str, int, int] | None:
        """Return the number behind a word that announces one."""
        match = _VALUE.match(text)
        if match is None:
            return None
        start, end = match.span(1)
        while True:
            digits = text[start:end].translate(None, b" ().-/")
            if len(digits) < LEAST_DIGITS:
                return None
            if self.holds(digits, _ANY_STYLE, named=True):
                bracket = text[start - 1 : start] == b"(" and b")" in text[start:end]
                return "PHONE", start - bracket, end
            # What follows behind a separator may be another number.
            group = len(text[start:end].rstrip(b"0123456789"))
            if group == 0:
                return None
            end = start + len(text[start : start + group].rstrip(b" ().-/"))


def is_region(code: str) -> bool:
    """Say whether numbers of a region are known."""
    return code in phonenumbers.SUPPORTED_REGIONS


@lru_cache(maxsize=4096)
def style_of(sizes: tuple[int, ...], gaps: tuple[bytes, ...]) -> Style | None:
    """Return how groups are written; None when no telephone number is written like that.

    Args:
        sizes: the lengths of the groups.
        gaps: what stands between them.
    """
    if not LEAST_DIGITS <= sum(sizes) <= MOST_DIGITS or len(sizes) > _MOST_GROUPS:
        return None
    if sizes in _DATES:
        return None
    marks = [gap.translate(None, b"()").strip() for gap in gaps]
    if not all(mark in {b"", b"-", b"/", b"."} for mark in marks) or b"/" in marks[1:]:
        return None
    if any(b"(" in gap for gap in gaps[1:]) or any(b")" in gap for gap in gaps[2:]):
        return None
    apart = b")" in b"".join(gaps[:2])
    # A single dot is a decimal's.
    if b"." in marks and (set(marks[apart:]) != {b"."} or (len(marks) == 1 and sizes[0] < 3)):  # noqa: PLR2004 - an area
        return None
    ends = tuple(accumulate(reversed(sizes)))[-2::-1]
    even = len({gap.strip(b"()") for gap in gaps[1:]}) <= 1 and min(sizes) > 1
    marked = apart or b"-" in marks or b"/" in marks
    return Style(frozenset(ends), marked, apart, even)


_ANY_STYLE: Final = Style(frozenset(), marked=False, apart=False, even=False)


@lru_cache(maxsize=512)
def _region(code: str) -> _Region:
    return _Region(code)


def _read(form: Any, trunk: str) -> _Format:  # noqa: ANN401 - of a library without types
    rule = form.national_prefix_formatting_rule or ""
    plain = _NOT_DIGITS.sub("", rule.replace("\\1", ""))
    return _Format(
        re.compile(form.pattern),
        re.compile(form.leading_digits_pattern[-1]) if form.leading_digits_pattern else None,
        form.format,
        trunk_needed=bool(trunk)
        and plain == trunk
        and not form.national_prefix_optional_when_formatting,
        trunk_apart=bool(trunk) and f"{trunk} " in rule,
    )


def _fits(form: _Format, number: str) -> bool:
    return (form.leading is None or form.leading.match(number) is not None) and (
        form.pattern.fullmatch(number) is not None
    )


def _grouped_well(digits: str, number: str, style: Style, form: _Format, trunk: str) -> bool:
    """Say whether groups are usual for a valid number."""
    ends = style.ends
    if len(number) in ends and trunk:
        if trunk == "0" and not (style.apart or form.trunk_apart):
            return False
        ends -= {len(number)}
    zero = digits[0] == "0"
    if not ends:
        return zero and len(digits) >= _LEAST_WHOLE
    match = form.pattern.fullmatch(number)
    assert match is not None  # noqa: S101 - the form fits the number
    groups = [group for group in _NOT_DIGITS.split(match.expand(form.text)) if group]
    usual = frozenset(tuple(accumulate(map(len, reversed(groups))))[:-1])
    if ends == usual or not usual:
        return ends == usual
    area = max(usual)
    if not zero:
        return (ends < usual and area in ends and style.marked) or ends in _USUAL.get(
            len(number), ()
        )
    # Behind its area a number is grouped at will; a long one is often also in other ways.
    other = len(digits) >= _LEAST_WHOLE and (len(ends) > 1 or len(digits) - max(ends) in _AREAS)
    return style.even and (other or max(ends) == area)
