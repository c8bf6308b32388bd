"""National identifiers that are valid by their own rules, in the forms that people write them."""

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from stdnum.be import nn
from stdnum.br import cpf
from stdnum.ca import sin
from stdnum.ch import ssn as ahv
from stdnum.cn import ric
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.in_ import aadhaar
from stdnum.it import codicefiscale
from stdnum.kr import rrn
from stdnum.nl import bsn
from stdnum.no import fodselsnummer
from stdnum.pl import pesel
from stdnum.se import personnummer

Made = tuple[str, str]
"""What to write into a text, and the value that is to be found in it."""
_SPANISH: Final = "TRWAGMYFPDXBNJZSQVHLCKE"
_FINNISH: Final = "0123456789ABCDEFHJKLMNPRSTUVWXY"
_BRITISH: Final = "ACEHJLMPRSTWXY"


def some(rng: random.Random, size: int, alphabet: str = "0123456789") -> str:
    """Return so many characters of an alphabet."""
    return "".join(rng.choice(alphabet) for _ in range(size))


def national(rng: random.Random) -> Made:
    """Return an identifier of some country."""
    return rng.choice(_MAKERS)(rng)


def _valid(check: Callable[[str], bool], make: Callable[[], str]) -> str:
    """Return the first that is valid of what is made."""
    while True:
        value = make()
        if check(value):
            return value


def date(rng: random.Random, order: str = "ymd") -> str:
    """Return a day of the last century, two digits each."""
    parts = {"y": rng.randrange(40, 99), "m": rng.randrange(1, 13), "d": rng.randrange(1, 28)}
    return "".join(f"{parts[part]:02}" for part in order)


def _same(value: str) -> Made:
    return value, value


def _brazil(rng: random.Random) -> Made:
    number = _valid(cpf.is_valid, lambda: some(rng, 11))
    return _same(f"{number[:3]}.{number[3:6]}.{number[6:9]}-{number[9:]}")


def _sweden(rng: random.Random) -> Made:
    return _same(_valid(personnummer.is_valid, lambda: f"{date(rng)}-{some(rng, 4)}"))


def _switzerland(rng: random.Random) -> Made:
    number = _valid(ahv.is_valid, lambda: "756" + some(rng, 10))
    return _same(f"{number[:3]}.{number[3:7]}.{number[7:11]}.{number[11:]}")


def _spain(rng: random.Random) -> Made:
    return _same(_valid(dni.is_valid, lambda: some(rng, 8) + rng.choice(_SPANISH)))


def _spain_foreigner(rng: random.Random) -> Made:
    return _same(
        _valid(nie.is_valid, lambda: rng.choice("XYZ") + some(rng, 7) + rng.choice(_SPANISH))
    )


def _finland(rng: random.Random) -> Made:
    def make() -> str:
        return f"{date(rng, 'dmy')}-{rng.randrange(2, 900):03}{rng.choice(_FINNISH)}"

    return _same(_valid(hetu.is_valid, make))


def _india(rng: random.Random) -> Made:
    number = _valid(aadhaar.is_valid, lambda: rng.choice("23456789") + some(rng, 11))
    return _same(f"{number[:4]} {number[4:8]} {number[8:]}")


def _france(rng: random.Random) -> Made:
    def make() -> str:
        body = f"{rng.choice('12')}{date(rng, 'ym')}{rng.randrange(1, 95):02}{some(rng, 6)}"
        return f"{body}{97 - int(body) % 97:02}"

    number = _valid(nir.is_valid, make)
    if rng.choice((True, False)):
        return _same(number)
    cuts = (0, 1, 3, 5, 7, 10, 13, 15)
    return _same(" ".join(number[a:b] for a, b in pairwise(cuts)))


def _belgium(rng: random.Random) -> Made:
    def make() -> str:
        body = f"{date(rng)}{rng.randrange(1, 998):03}"
        return f"{body}{97 - int(body) % 97:02}"

    number = _valid(nn.is_valid, make)
    return _same(f"{number[:2]}.{number[2:4]}.{number[4:6]}-{number[6:9]}.{number[9:]}")


def _canada(rng: random.Random) -> Made:
    number = _valid(sin.is_valid, lambda: rng.choice("1234567") + some(rng, 8))
    return _same(f"{number[:3]}-{number[3:6]}-{number[6:]}")


def _poland(rng: random.Random) -> Made:
    number = _valid(pesel.is_valid, lambda: date(rng) + some(rng, 5))
    return f"PESEL {number}", number


def _netherlands(rng: random.Random) -> Made:
    number = _valid(bsn.is_valid, lambda: some(rng, 9))
    return f"BSN: {number}", number


def _germany(rng: random.Random) -> Made:
    number = _valid(idnr.is_valid, lambda: rng.choice("123456789") + some(rng, 10))
    return f"Steuer-ID {number}", number


def _norway(rng: random.Random) -> Made:
    number = _valid(fodselsnummer.is_valid, lambda: date(rng, "dmy") + some(rng, 5))
    return _same(f"{number[:6]} {number[6:]}")


def _china(rng: random.Random) -> Made:
    def make() -> str:
        return f"11010119{date(rng)}{some(rng, 3)}{rng.choice('0123456789X')}"

    return _same(_valid(ric.is_valid, make))


def _korea(rng: random.Random) -> Made:
    number = _valid(rrn.is_valid, lambda: f"{date(rng)}{rng.choice('12')}{some(rng, 6)}")
    return _same(f"{number[:6]}-{number[6:]}")


def _italy(rng: random.Random) -> Made:
    body = f"RSSMRA{rng.randrange(40, 99)}{rng.choice('ABCDEHLMPRST')}{rng.randrange(1, 28):02}H501"
    return _same(body + codicefiscale.calc_check_digit(body))


def _united_kingdom(rng: random.Random) -> Made:
    gap = rng.choice(("", " "))
    parts = (some(rng, 2) for _ in range(3))
    return _same(some(rng, 2, _BRITISH) + gap + gap.join(parts) + gap + rng.choice("ABCD"))


_MAKERS: Final[tuple[Callable[[random.Random], Made], ...]] = (
    _belgium,
    _brazil,
    _canada,
    _china,
    _finland,
    _france,
    _germany,
    _india,
    _italy,
    _korea,
    _netherlands,
    _norway,
    _poland,
    _spain,
    _spain_foreigner,
    _sweden,
    _switzerland,
    _united_kingdom,
)
