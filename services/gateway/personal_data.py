"""Personal data and secrets in a text: found by a linear scan, confirmed by a check.

Matching is RE2's, so no input can stall it; the checks (Luhn, mod 97, the numbering plans of
`phonenumbers`) run only on what the scan found.
"""

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import phonenumbers
import re2
from stdnum import iban, luhn
from stdnum.us import ssn


@dataclass(frozen=True, slots=True)
class Find:
    """One piece of personal data: its type and where it stands."""

    type: str
    start: int
    end: int


def _is_card(text: str) -> bool:
    digits = text.replace(" ", "").replace("-", "")
    return bool(luhn.is_valid(digits)) and len(set(digits)) > 1


def _is_phone(text: str) -> bool:
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.is_valid_number(number)


def _is_ip_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_global


def _is_iban(text: str) -> bool:
    return bool(iban.is_valid(text))


def _is_ssn(text: str) -> bool:
    return bool(ssn.is_valid(text))


def _always(text: str) -> bool:
    return bool(text)


# The order is the precedence where two could match at one place. `%s` stands for a word boundary:
# the scan that looks for candidates in raw JSON leaves it out, since an escape such as `\n` before
# a match would hide it.
_PATTERNS: Final[tuple[tuple[str, str, Callable[[str], bool]], ...]] = (
    ("PRIVATE_KEY", r"-----BEGIN [A-Z ]*PRIVATE KEY-----[A-Za-z0-9+/=\s\\]*", _always),
    ("TOKEN", r"%seyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}", _always),
    ("API_KEY", r"%s(?:sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36})", _always),
    ("EMAIL", r"[A-Za-z0-9._%%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+", _always),
    ("IBAN", r"%s[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?%s", _is_iban),
    ("CARD", r"%s[0-9](?:[ -]?[0-9]){12,18}%s", _is_card),
    ("SSN", r"%s[0-9]{3}-[0-9]{2}-[0-9]{4}%s", _is_ssn),
    ("PHONE", r"\+[0-9](?:[ ().-]{0,2}[0-9]){7,14}%s", _is_phone),
    ("IP_ADDRESS", r"%s[0-9]{1,3}(?:\.[0-9]{1,3}){3,}%s", _is_ip_address),
)
# What no detector can match longer than; a stream holds back no more than this.
LONGEST_MATCH: Final = 512


def _joined(boundary: str) -> str:
    patterns = (pattern.replace("%s", boundary).replace("%%", "%") for _, pattern, _ in _PATTERNS)
    return "|".join(f"({pattern})" for pattern in patterns)


_EXACT: Final = re2.compile(_joined(r"\b"))
_LOOSE: Final = re2.compile(_joined("").encode())


def suspicious(raw: bytes) -> bool:
    r"""Return whether raw JSON may hold personal data; linear, no false negative.

    A `\u` escape can spell any character, so it always needs the closer look.
    """
    return b"\\u" in raw or _LOOSE.search(raw) is not None


def find(text: str) -> Iterator[Find]:
    """Yield the personal data of a text, from left to right, without overlaps."""
    for match in _EXACT.finditer(text):
        kind, _, confirmed = _PATTERNS[match.lastindex - 1]
        if confirmed(match.group()):
            yield Find(kind, match.start(), match.end())
