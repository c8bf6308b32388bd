"""Addresses, accounts and papers that have letters in them: their forms and their checks.

Forms are RE2's, without capture groups and of bounded length; a check gets what the form found.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Final

from stdnum import iban, numdb
from stdnum.au import tfn
from stdnum.bg import egn
from stdnum.br import cpf
from stdnum.ca import sin
from stdnum.de import idnr
from stdnum.dk import cpr
from stdnum.ee import ik
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.hr import oib
from stdnum.ie import pps
from stdnum.il import idnr as il_idnr
from stdnum.in_ import aadhaar, pan
from stdnum.it import codicefiscale
from stdnum.mx import curp
from stdnum.nl import bsn
from stdnum.no import fodselsnummer
from stdnum.pl import pesel
from stdnum.pt import nif
from stdnum.ro import cnp
from stdnum.ru import inn
from stdnum.se import personnummer
from stdnum.th import pin
from stdnum.tr import tckimlik
from stdnum.us import ssn
from stdnum.za import idnr as za_idnr

from services.gateway.number_checks import is_chinese, passes

Named = tuple[str, int, int] | None
"""A type, and where its value stands in a candidate."""

_LOCAL: Final = rb"(?:[A-Za-z0-9_%+.'-]|[\xc3-\xdf][\x80-\xbf])"
_LABEL: Final = rb"(?:[A-Za-z0-9-]|[\xc3-\xdf][\x80-\xbf]){1,63}"
EMAIL: Final = (
    rb"(?:[A-Za-z0-9_%+.-]|[\xc3-\xdf][\x80-\xbf])"
    + _LOCAL
    + rb"{0,63}@"
    + _LABEL
    + rb"(?:\."
    + _LABEL
    + rb"){0,8}\.(?:[A-Za-z]{2,24}|xn--[A-Za-z0-9-]{2,59}|(?:[\xc3-\xdf][\x80-\xbf]){2,24})"
)
# What stands behind the dot of a picture for fine screens: `logo@2x.png`.
_NO_DOMAIN: Final = re.compile(
    rb"@[0-9.]+x?\.(?:png|jpe?g|gif|webp|svg|css|js|ts|pdf|avif)$", re.IGNORECASE
)
_LONGEST_LOCAL: Final = 64

# How long an IBAN is, by country, as its registry has it.
_SIZES: Final[dict[str, int]] = {
    country: 4 + sum(map(int, re.findall(r"([0-9]+)!", facts["bban"])))
    for _, country, _, facts, _ in numdb.get("iban").prefixes
}
IBAN: Final = rb"(?i:" + "|".join(_SIZES).encode() + rb")[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,31}"

_ITALY: Final = (
    rb"[A-Za-z]{6}[0-9LMNP-V]{2}[A-EHLMPRSTa-ehlmprst][0-9LMNP-V]{2}"
    rb"[A-Za-z][0-9LMNP-V]{3}[A-Za-z]"
)
_UNITED_KINGDOM: Final = (
    rb"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]"
)
LETTERED: Final = b"|".join(
    (
        rb"[0-9]{6}[+A-FU-Y-][0-9]{3}[0-9A-Y]",  # Finland
        rb"[0-9]{8}-?[A-HJ-NP-TV-Z]|[XYZ]-?[0-9]{7}-?[A-HJ-NP-TV-Z]",  # Spain
        _ITALY,
        rb"[A-Z]{4}[0-9]{6}[HMX][A-Z]{5}[A-Z0-9][0-9]",  # Mexico
        rb"[A-Z]{3}P[A-Z][0-9]{4}[A-Z]",  # India, of a person
        _UNITED_KINGDOM,
        rb"[1-9][0-9]{16}[Xx]",  # China
        rb"[STFGM][0-9]{7}[A-Z]",  # Singapore
    )
)
_NO_NINO: Final = frozenset((b"BG", b"GB", b"NK", b"KN", b"TN", b"NT", b"ZZ"))

# The second line of a passport, or the first of an identity card, with its check digits.
MACHINE_READABLE: Final = (
    rb"(?:P[A-Z<][A-Z]{3}[A-Z<]{39}[\\\x01\r\n]{1,6})?[A-Z0-9<]{9}[0-9][A-Z<]{3}[0-9]{6}[0-9][MFX<]"
    rb"[0-9]{6}[0-9][A-Z0-9<]{2,16}[0-9]?"
)
_LINE: Final = re.compile(
    rb"([A-Z0-9<]{9})([0-9])[A-Z<]{3}([0-9]{6})([0-9])[MFX<]([0-9]{6})([0-9])[A-Z0-9<]{2,16}[0-9]?$"
)
_WEIGHTS: Final = (7, 3, 1)

_CHECKS: Final[dict[bytes, tuple[Callable[[str], bool], ...]]] = {
    b"ssn|social security": (ssn.is_valid,),
    b"pesel": (pesel.is_valid,),
    b"bsn|burgerservicenummer|sofinummer": (bsn.is_valid,),
    b"steuer-?id|steuer-?identifikationsnummer|idnr|steuernummer|tin": (idnr.is_valid,),
    b"cpf": (cpf.is_valid,),
    b"cpr": (cpr.is_valid,),
    b"personnummer": (personnummer.is_valid,),
    b"f\xc3\xb8dselsnummer|fodselsnummer": (fodselsnummer.is_valid,),
    b"aadhaar": (aadhaar.is_valid,),
    b"nhs": (nhs.is_valid,),
    b"social insurance|nas": (sin.is_valid,),
    b"tfn|tax file": (tfn.is_valid,),
    b"cnp": (cnp.is_valid,),
    b"oib": (oib.is_valid,),
    b"isikukood": (ik.is_valid,),
    b"egn": (egn.is_valid,),
    b"tckn|kimlik": (tckimlik.is_valid,),
    b"nif|contribuinte": (nif.is_valid, dni.is_valid),
    b"nir|s\xc3\xa9curit\xc3\xa9 sociale|securite sociale": (nir.is_valid,),
    b"inn": (inn.is_valid,),
    b"pps|ppsn": (pps.is_valid,),
    b"national id|identity number|id number|national identification|identity card|id card": (
        pesel.is_valid,
        bsn.is_valid,
        idnr.is_valid,
        cpf.is_valid,
        cpr.is_valid,
        personnummer.is_valid,
        fodselsnummer.is_valid,
        aadhaar.is_valid,
        sin.is_valid,
        cnp.is_valid,
        egn.is_valid,
        ik.is_valid,
        tckimlik.is_valid,
        za_idnr.is_valid,
        il_idnr.is_valid,
        is_chinese,
        pin.is_valid,
    ),
}
# How long the numbers of the countries in that last line are, since each check costs its time.
_LENGTHS: Final[dict[Callable[[str], bool], range | tuple[int, ...]]] = {
    pesel.is_valid: (11,),
    bsn.is_valid: range(10),
    idnr.is_valid: (11,),
    cpf.is_valid: (11,),
    cpr.is_valid: (10,),
    personnummer.is_valid: (10, 12),
    fodselsnummer.is_valid: (11,),
    aadhaar.is_valid: (12,),
    sin.is_valid: (9,),
    cnp.is_valid: (13,),
    egn.is_valid: (10,),
    ik.is_valid: (11,),
    tckimlik.is_valid: (11,),
    za_idnr.is_valid: (13,),
    il_idnr.is_valid: range(10),
    is_chinese: (18,),
    pin.is_valid: (13,),
}
_PASSPORT: Final = b"passport|reisepass|passeport|pasaporte|passaporto|paspoort|paszport|passnummer"
NAMES: Final = b"|".join((_PASSPORT, *_CHECKS))
"""The words that make a number after them a document's."""
WIDEST_GAP: Final = 24
NAMED_NUMBER: Final = rb"(?i:" + NAMES + rb")[^0-9@\x22\n]{0,%d}[0-9]" % WIDEST_GAP
LONGEST_VALUE: Final = 24
_VALUE: Final = re.compile(
    rb"(?i:("
    + NAMES
    + rb"))\b[^0-9@\x22\n]{0,%d}?(?<![A-Za-z0-9])" % WIDEST_GAP
    + rb"([A-Z0-9]{0,4}[0-9](?:[ ./-]?[A-Z0-9]){4,16}(?![A-Za-z0-9]))"
)
_PAPER: Final = re.compile(rb"[A-Z]{0,3}[0-9]{6,9}[A-Z]{0,2}|[CFGHJKLMNPRTVWXYZ0-9]{9,10}")
_LAST_GROUP: Final = re.compile(rb"[ ./-][A-Z0-9]+$")
_BY_NAME: Final = {
    name: checks
    for names, checks in _CHECKS.items()
    for name in names.replace(b"-?", b"-").split(b"|")
}


def is_email(text: bytes) -> bool:
    """Tell a mail address from what else has an `@` in it."""
    local, _, domain = text.rpartition(b"@")
    if local[:1] in b".'" or local[-1:] in b".'" or b".." in text or len(local) > _LONGEST_LOCAL:
        return False
    if any(label[:1] == b"-" or label[-1:] == b"-" for label in domain.split(b".")):
        return False
    return _NO_DOMAIN.search(text) is None


def iban_end(text: bytes) -> int | None:
    """Return where the IBAN at the beginning of a text ends; None when there is none."""
    size = _SIZES[text[:2].upper().decode()]
    number = text.translate(None, b" -")[:size]
    if len(number) < size or int(_as_digits(number[4:] + number[:4])) % 97 != 1:
        return None
    if not passes(iban.is_valid, number.decode()):
        return None
    taken = 0
    for end, character in enumerate(text, 1):
        taken += character not in b" -"
        if taken == size:
            return end
    return None


def _as_digits(number: bytes) -> str:
    """Return a number with its letters as ISO 7064 counts them: A is 10, Z is 35."""
    return "".join(str(int(character, 36)) for character in number.decode())


def is_national_id(text: bytes) -> bool:
    """Check an identifier that has letters in it."""
    number = text.decode()
    if is_chinese(number) or any(
        passes(module.is_valid, number) for module in (hetu, dni, nie, codicefiscale, curp, pan)
    ):
        return True
    if (
        text[:1].isalpha()
        and text[-1:] in b"ABCD"
        and text[1:2].isalpha()
        and text[2:3] in b" 0123456789"
    ):
        return text[:2] not in _NO_NINO and len(text.replace(b" ", b"")) == 9  # noqa: PLR2004 - its length
    return text[:1] in b"STFGM" and len(text) == 9 and _is_nric(number)  # noqa: PLR2004 - its length


def _is_nric(number: str) -> bool:
    """Check the letter of an identity card of Singapore."""
    if not number[1:8].isdigit():
        return False
    total = sum(
        int(digit) * weight
        for digit, weight in zip(number[1:8], (2, 7, 6, 5, 4, 3, 2), strict=True)
    )
    total += {"T": 4, "G": 4, "M": 3}.get(number[0], 0)
    letters = {"S": "JZIHGFEDCBA", "T": "JZIHGFEDCBA", "M": "XWUTRQPNJLK"}.get(
        number[0], "XWUTRQPNMLK"
    )
    remainder = total % 11
    return letters[10 - remainder if number[0] == "M" else remainder] == number[8]


def is_machine_readable(text: bytes) -> bool:
    """Check the digits of a machine-readable line (ICAO 9303)."""
    match = _LINE.search(text)
    if match is None:
        return False
    pairs = ((match[1], match[2]), (match[3], match[4]), (match[5], match[6]))
    return all(_check_digit(field) == int(digit) for field, digit in pairs)


def _check_digit(field: bytes) -> int:
    values = (
        0 if character == 60 else character - 48 if character < 58 else character - 55  # noqa: PLR2004 - `<`, 0 to 9, A to Z
        for character in field
    )
    return sum(value * _WEIGHTS[index % 3] for index, value in enumerate(values)) % 10


def named_number(text: bytes) -> Named:
    """Return a document's number after its name; its check decides, a passport's its form."""
    match = _VALUE.match(text)
    if match is None:
        return None
    name, start, end = match[1].lower(), match.start(2), match.end(2)
    if name in _PASSPORT.split(b"|"):
        kind, good = "PASSPORT", _is_paper
    else:
        kind = "SSN" if name in {b"ssn", b"social security"} else "NATIONAL_ID"
        checks = _BY_NAME.get(name) or _BY_NAME.get(name.replace(b"steuer", b"steuer-")) or ()
        good = partial(_passes, checks)
    # What follows after a separator may be another number.
    while not good(text[start:end]):
        groups = _LAST_GROUP.search(text, start, end)
        if groups is None:
            return None
        end = groups.start()
    return kind, start, end


def _passes(checks: tuple[Callable[[str], bool], ...], value: bytes) -> bool:
    number = value.translate(None, b" -./").decode()
    return any(
        passes(check, number)
        for check in checks
        if check not in _LENGTHS or len(number) in _LENGTHS[check]
    )


def _is_paper(value: bytes) -> bool:
    return _PAPER.fullmatch(value) is not None and _digits(value)


def _digits(value: bytes) -> bool:
    return sum(character in b"0123456789" for character in value) >= 4  # noqa: PLR2004 - fewer are a word
