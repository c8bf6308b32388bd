"""What a run of digits is: a card, a telephone number, an address, a national id, or nothing.

The scan hands over whole runs, digits with separators between them. Which groups of a run could be
what is decided by their lengths and separators alone, and remembered by shape; the checks (Luhn and
the issuers' ranges, numbering plans, the check digits of `python-stdnum`) run on what is left.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

import phonenumbers
from stdnum.be import nn
from stdnum.br import cpf
from stdnum.ca import sin
from stdnum.ch import ssn as ahv
from stdnum.cl import rut
from stdnum.cz import rc
from stdnum.fr import nir
from stdnum.in_ import aadhaar
from stdnum.kr import rrn
from stdnum.my import nric
from stdnum.no import fodselsnummer
from stdnum.se import personnummer
from stdnum.th import pin
from stdnum.us import itin, ssn

from services.gateway.national_phones import NationalPhones, Style, style_of

# Digits of one kind in a row are examples, and no issuer's.
_ONE_DIGIT: Final = 1
_MOST_GROUPS: Final = 7
_DECIMAL: Final = 2
_SHORT_GROUP: Final = 2
# Twice a digit, its digits added up, all as ASCII.
_DOUBLED: Final = bytes.maketrans(b"0123456789", b"0246813579")
# Next to one of these a group is a part of something longer: a decimal, a range, an identifier.
_JOINING: Final = frozenset((b".", b"-"))
# A telephone number is no part of something longer either, no amount and no path.
_NO_PHONE_BEHIND: Final = frozenset((b".", b"-", b"/", b"$", b"#", b"+"))
_CHINA: Final = re.compile(
    r"(?:1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3])[0-9]{4}(?:19[0-9]{2}|20[0-4][0-9])"
    r"(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{3}[0-9Xx]"
)
_DECIMALS: Final = re.compile(rb",[0-9]")
_MOST_PHONE_DIGITS: Final = 17
_GROUP: Final = re.compile(rb"[0-9]+")
_NOT_DIGITS: Final = bytes(set(range(256)) - set(b"0123456789"))
# Issuer ranges: how a number begins, and how long it may be. The second line is Mastercard's.
_ISSUERS: Final = re.compile(
    rb"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})"  # Visa
    rb"|(?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}"
    rb"|3[47][0-9]{13}"  # American Express
    rb"|(?:6011|64[4-9][0-9]|65[0-9]{2})[0-9]{12,15}"  # Discover
    rb"|3(?:0[0-5]|095|[689][0-9])[0-9]{11,16}"  # Diners Club
    rb"|35(?:2[89]|[3-8][0-9])[0-9]{12,15}"  # JCB
    rb"|(?:62|81)[0-9]{14,17}"  # UnionPay
    rb"|220[0-4][0-9]{12,15}"  # Mir
    rb"|(?:50[0-9]{2}|5[6-8][0-9]{2}|6[0-9]{3})[0-9]{9,15}"  # Maestro, RuPay
)
_CARD_GROUPS: Final = frozenset(
    (
        *((size,) for size in range(13, 20)),
        *((4, 4, 4, size) for size in range(1, 5)),
        *((4, 4, 4, 4, size) for size in range(1, 4)),
        (4, 6, 5),
        (4, 6, 4),
        (4, 4, 5),
        (8, 8),
        (6, 13),
    )
)


class Part(NamedTuple):
    """A part of a run and what it is."""

    type: str
    start: int
    end: int


def passes(check: Callable[[str], bool], number: str) -> bool:
    """Return whether a number passes a check; what a check cannot cope with does not pass.

    That of `stdnum.cn.ric` raises KeyError for a place that its table knows the province of alone.
    """
    try:
        return bool(check(number))
    except Exception:  # noqa: BLE001 - whatever it is, nobody's request fails for it
        return False


def is_card(digits: bytes) -> bool:
    """Check a payment card's issuer and check digit."""
    return (
        _ISSUERS.fullmatch(digits) is not None and len(set(digits)) > _ONE_DIGIT and _luhn(digits)
    )


def _luhn(digits: bytes) -> bool:
    total = sum(digits[-1::-2]) + sum(digits[-2::-2].translate(_DOUBLED))
    return (total - ord("0") * len(digits)) % 10 == 0


def is_ssn(text: bytes) -> bool:
    """Check a US social security number against the ranges that were never given out."""
    digits = text.decode()
    return passes(ssn.is_valid, digits) or passes(itin.is_valid, digits)


def is_public_address(text: str) -> bool:
    """Say whether an IP address is one of the Internet's, or stands for one in an example."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_global or any(
        address.version == net.version and address in net for net in _EXAMPLES
    )


_EXAMPLES: Final = tuple(
    ipaddress.ip_network(net)
    for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
)


def _national(module: Callable[[str], bool]) -> Callable[[bytes], bool]:
    return lambda text: passes(module, text.decode())


def is_chinese(number: str) -> bool:
    """Check a resident's identity number of China (GB 11643): province, day of birth, check digit.

    That of `stdnum` also looks the county up, which costs a hundred times as much.
    """
    if _CHINA.fullmatch(number) is None:
        return False
    digits = (10 if digit in "Xx" else int(digit) for digit in number)
    return sum(digit << 17 - place for place, digit in enumerate(digits)) % 11 == 1


def _is_nir(text: bytes) -> bool:
    # Without a name before it, only those given at birth.
    return text[:1] in b"12" and passes(nir.is_valid, text.decode())


def _is_ipv4(text: bytes) -> bool:
    return is_public_address(text.decode())


@lru_cache(maxsize=4096)
def _is_phone(text: bytes) -> bool:
    number = text.decode()
    if number.startswith("00"):
        number = "+" + number[2:]
    try:
        parsed = phonenumbers.parse(number, None)
    except phonenumbers.NumberParseException:
        return False
    return bool(phonenumbers.is_valid_number(parsed))


def _digits(check: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
    return lambda text: check(text.translate(None, _NOT_DIGITS))


Check = Callable[[bytes], bool]
_CARD: Final = ("CARD", _digits(is_card))
# By the lengths of the groups and what stands between them.
_BY_SHAPE: Final[dict[tuple[tuple[int, ...], bytes], tuple[tuple[str, Check], ...]]] = {
    ((3, 2, 4), b"--"): (("SSN", is_ssn),),
    ((3, 3, 3, 2), b"..-"): (("NATIONAL_ID", _national(cpf.is_valid)),),
    ((3, 3, 3, 2), b"..."): (("NATIONAL_ID", _national(cpf.is_valid)),),
    ((2, 2, 2, 3, 2), b"..-."): (("NATIONAL_ID", _national(nn.is_valid)),),
    ((3, 4, 4, 2), b"..."): (("NATIONAL_ID", _national(ahv.is_valid)),),
    ((13,), b""): (("NATIONAL_ID", _national(ahv.is_valid)),),
    ((6, 4), b"-"): (("NATIONAL_ID", _national(personnummer.is_valid)),),
    ((8, 4), b"-"): (("NATIONAL_ID", _national(personnummer.is_valid)),),
    ((6, 5), b" "): (("NATIONAL_ID", _national(fodselsnummer.is_valid)),),
    ((4, 4, 4), b"  "): (("NATIONAL_ID", _national(aadhaar.is_valid)),),
    ((4, 4, 4), b"--"): (("NATIONAL_ID", _national(aadhaar.is_valid)),),
    ((15,), b""): (("NATIONAL_ID", _is_nir),),
    ((13, 2), b" "): (("NATIONAL_ID", _is_nir),),
    ((1, 2, 2, 2, 3, 3, 2), b"      "): (("NATIONAL_ID", _is_nir),),
    ((18,), b""): (("NATIONAL_ID", _national(is_chinese)),),
    ((6, 7), b"-"): (("NATIONAL_ID", _national(rrn.is_valid)),),
    ((3, 3, 3), b"--"): (("NATIONAL_ID", _national(sin.is_valid)),),
    ((6, 4), b"/"): (("NATIONAL_ID", _national(rc.is_valid)),),
    ((6, 3), b"/"): (("NATIONAL_ID", _national(rc.is_valid)),),
    ((1, 4, 5, 2, 1), b"----"): (("NATIONAL_ID", _national(pin.is_valid)),),
    ((6, 2, 4), b"--"): (("NATIONAL_ID", _national(nric.is_valid)),),
    ((2, 3, 3, 1), b"..-"): (("NATIONAL_ID", _national(rut.is_valid)),),
    ((1, 3, 3, 1), b"..-"): (("NATIONAL_ID", _national(rut.is_valid)),),
}


def parts(  # noqa: C901 - one walk over the groups
    run: bytes, before: bytes, after: bytes, national: NationalPhones | None = None
) -> Iterator[Part]:
    """Yield what a run of digits holds, from left to right, without overlaps.

    Args:
        run: digits, with separators between them and possibly a `+` or a bracket in front.
        before: the byte before it, if any.
        after: the two bytes after it, if any.
        national: recognises numbers without a country code, where they are looked for.
    """
    groups = [match.span() for match in _GROUP.finditer(run)]
    if after[:1].isalpha() or after[:1] == b"_":
        groups.pop()
    if run[:1] == b"+" or run[:2] == b"00":
        end = _phone_end(run, groups)
        if end:
            yield Part("PHONE", 0, end)
            groups = [group for group in groups if group[0] >= end]
    if (
        len(groups) > 1
        and run[groups[-2][1] : groups[-1][0]] == b"."
        and (len(groups) == _DECIMAL or run[groups[-3][1] : groups[-2][0]] != b".")
        and not run[slice(*groups[-1])].strip(b"0")
    ):
        groups.pop()  # A whole number that is written as a decimal.
    if not groups:
        return
    gaps = [run[left[1] : right[0]] for left, right in pairwise(groups)]
    sizes = [end - start for start, end in groups]
    outside = b"." if before == b"." and groups[0][0] == 0 else b""
    first = 0
    while first < len(groups):
        shape = (
            tuple(sizes[first : first + _MOST_GROUPS]),
            tuple(gaps[first : first + _MOST_GROUPS]),
        )
        width = 0
        for last, checks in _plan(*shape, outside):
            start, end = groups[first][0], groups[first + last][1]
            kind = next((kind for kind, check in checks if check(run[start:end])), None)
            if kind is not None:
                yield Part(kind, start, end)
                width = last + 1
                break
        if not width and national is not None:
            left = (run[: groups[first][0]] or before)[-1:] if first == 0 else outside
            width = 1 + _phone_group(run, groups, shape, first, left, after, national)
            if width:
                start, end = groups[first][0], groups[first + width - 1][1]
                start -= run[start - 1 : start] == b"(" and b")" in run[start:end]
                yield Part("PHONE", start, end)
        first += width or 1
        outside = gaps[first - 1] if first <= len(gaps) else b""


def _phone_group(  # noqa: PLR0913, PLR0917 - what stands around decides
    run: bytes,
    groups: list[tuple[int, int]],
    shape: tuple[tuple[int, ...], tuple[bytes, ...]],
    first: int,
    left: bytes,
    after: bytes,
    national: NationalPhones,
) -> int:
    """Return up to which group a telephone number without a country code goes; -1 for none."""
    if left in _NO_PHONE_BEHIND:
        return -1
    zero = run[groups[first][0]] == ord("0") or left == b"("
    before = groups[first - 1][1] - groups[first - 1][0] if first and left == b" " else 0
    for last, style in _phone_plan(*shape, before, zero):
        start, end = groups[first][0], groups[first + last][1]
        if not zero and end == len(run) and _DECIMALS.match(after):
            continue
        if national.holds(run[start:end].translate(None, _NOT_DIGITS), style):
            return last
    return -1


@lru_cache(maxsize=4096)
def _phone_plan(
    sizes: tuple[int, ...],
    gaps: tuple[bytes, ...],
    before: int,
    zero: bool,  # noqa: FBT001 - a part of what is remembered
) -> tuple[tuple[int, Style], ...]:
    """Return up to which group a run of this shape may be a telephone number.

    Args:
        sizes: of the groups.
        gaps: between them.
        before: the size of the group that stands before with a space between; 0 for none.
        zero: whether it begins with a zero or a bracket.
    """
    found = []
    for last in range(len(sizes) - 1, -1, -1):
        next_to = gaps[last] if last < len(gaps) else b""
        style = style_of(sizes[: last + 1], gaps[:last])
        if style is None or next_to in _NO_PHONE_BEHIND:
            continue
        # Groups of a table, or of a longer number, stand as close to each other as these.
        after = sizes[last + 1] if next_to == b" " and last + 1 < len(sizes) else 0
        if not style.marked and max(before, after) > (_SHORT_GROUP if zero else 0):
            continue
        found.append((last, style))
    return tuple(found)


@lru_cache(maxsize=4096)
def _plan(
    sizes: tuple[int, ...], gaps: tuple[bytes, ...], outside: bytes
) -> tuple[tuple[int, tuple[tuple[str, Check], ...]], ...]:
    """Return up to which group a run of this shape may be something, and how to tell."""
    if outside in _JOINING:
        return ()
    return tuple(
        (last, checks)
        for last in range(len(sizes) - 1, -1, -1)
        if (last >= len(gaps) or gaps[last] not in _JOINING)
        and (checks := _checks(sizes[: last + 1], gaps[:last], _neighbours(gaps, last, outside)))
    )


def _neighbours(gaps: tuple[bytes, ...], last: int, outside: bytes) -> bool:
    """Say whether groups stand beside as close as those of a number that is written in groups."""
    return b" " in (outside, *gaps[last : last + 1])


def _checks(
    sizes: tuple[int, ...],
    gaps: tuple[bytes, ...],
    neighbours: bool,  # noqa: FBT001 - what else stands beside
) -> tuple[tuple[str, Check], ...]:
    between = b"".join(gaps) if all(len(gap) == 1 for gap in gaps) else b"?"
    found = _BY_SHAPE.get((sizes, between), ())
    if neighbours and b" " in between:
        found = ()
    if sizes in _CARD_GROUPS and len(set(gaps)) <= 1 and between.strip(b" .-") == b"":
        return (_CARD, *found)
    if len(sizes) == 4 and between == b"..." and max(sizes) <= 3:  # noqa: PLR2004 - a dotted quad
        return (("IP_ADDRESS", _is_ipv4), *found)
    return found


def _phone_end(run: bytes, groups: list[tuple[int, int]]) -> int:
    """Return where the longest telephone number at the beginning of a run ends; 0 for none."""
    digits = 0
    ends = []
    for start, end in groups:
        digits += end - start
        if digits > _MOST_PHONE_DIGITS:
            break
        ends.append(end)
    return next((end for end in reversed(ends) if _is_phone(run[:end])), 0)
