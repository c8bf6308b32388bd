"""A labelled corpus of personal data in many formats and languages, and of what only looks like it.

Everything is made up from a seed: numbers that are valid by their own rules, in the forms that
people write them, inside of sentences, tables and code; and near misses that must not be found.
"""

import base64
import random
import re
import string
import uuid
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import phonenumbers
from stdnum import luhn
from stdnum.iso7064 import mod_97_10
from stdnum.us import ssn

from bench.personal_data_ids import Made, date, national, some


class Sample(NamedTuple):
    """A text and what stands in it.

    Args:
        text: the text.
        type: what is in it; "" for nothing.
        value: how it is written there.
    """

    text: str
    type: str
    value: str


REGIONS: Final = ("US", "GB", "DE", "FR", "IN", "IT", "BR", "AU")
"""Whose national telephone numbers the corpus has."""

FRAMES: Final = (
    "{}",
    "Please take {} and call me back.",
    "Bitte vermerken Sie {}, danke.",
    "Mes coordonnées : {}. Merci !",
    "Mis datos son {}; gracias.",
    "以下の通りです: {} 。",
    "id;{};2026-11-23\n",
    '{{"name": "Ann", "value": "{}"}}',
    "value = '{}'  # as they sent it",
    "<td>{}</td>",
    "line one\n{}\nline three",
    "({})",
    "- {}\n- another item\n",
    "x={}&y=1",
)


def samples(seed: int = 6, each: int = 300, *, regional: bool = False) -> Iterator[Sample]:
    """Yield the corpus: for each type so many values, and as many near misses.

    Args:
        seed: another one makes other values.
        each: how many values of each type.
        regional: whether telephone numbers are those of `REGIONS`, without a country code.
    """
    rng = random.Random(seed)  # noqa: S311 - reproducible on purpose
    for kind, make in (MAKERS | {"PHONE": _national_phone} if regional else MAKERS).items():
        for index in range(each):
            value = make(rng)
            frame = FRAMES[index % len(FRAMES)]
            yield Sample(
                frame.replace("{{", "{").replace("}}", "}").replace("{}", value[0]), kind, value[1]
            )
    for index in range(each * 4):
        make_miss = MISSES[index % len(MISSES)]
        frame = FRAMES[rng.randrange(len(FRAMES))]
        text = frame.replace("{{", "{").replace("}}", "}").replace("{}", make_miss(rng))
        yield Sample(text, "", "")


def _same(value: str) -> Made:
    return value, value


def _email(rng: random.Random) -> Made:
    first, last = (
        rng.choice(("ann", "Bob.M", "o'neil", "maría", "jürgen", "x_y", "a+tag", "n-k")),
        some(rng, 4, string.ascii_lowercase),
    )
    host = rng.choice(
        (
            "example.com",
            "mail.example.co.uk",
            "büro.de",
            "xn--bro-hoa.de",
            "sub.dept.example.museum",
            "EXAMPLE.ORG",
            "a-b.io",
        )
    )
    return _same(f"{first}{rng.choice(('.', '_', ''))}{last}{rng.randrange(100)}@{host}")


def _phone(rng: random.Random) -> Made:
    regions = sorted(phonenumbers.SUPPORTED_REGIONS)
    while True:
        number = phonenumbers.example_number_for_type(
            rng.choice(regions),
            rng.choice(
                (phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE)
            ),
        )
        if number is not None and phonenumbers.is_valid_number(number):
            break
    text = phonenumbers.format_number(
        number,
        rng.choice(
            (phonenumbers.PhoneNumberFormat.E164, phonenumbers.PhoneNumberFormat.INTERNATIONAL)
        ),
    )
    style = rng.choice(("plain", "-", ".", "area"))
    if style in {"-", "."}:
        return _same(text.replace(" ", style))
    if style == "area" and text.count(" ") > 1:
        country, area, rest = text.split(" ", 2)
        return _same(f"{country} ({area}) {rest}")
    return _same(text)


def _national_phone(rng: random.Random) -> Made:
    """Return a number as it is written in its region, or whole behind a word."""
    region = rng.choice(REGIONS)
    kind = rng.choice(
        (phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE)
    )
    while True:
        number = phonenumbers.example_number_for_type(region, kind)
        assert number is not None  # noqa: S101 - each of them has both
        begin = (number.national_number or 0) // 10_000 * 10_000
        number.national_number = begin + rng.randrange(10_000)
        if phonenumbers.is_valid_number_for_region(number, region):
            break
    text = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
    style = rng.choice(("plain", "plain", "mark", "named", "whole"))
    digits = "".join(filter(str.isdigit, text))
    if style == "whole" and digits[0] == "0" and len(digits) > 9:  # noqa: PLR2004 - as it is dialled
        return _same(digits)
    if style in {"named", "whole"}:
        word = rng.choice(
            ("phone: ", "Tel. ", "mobile number ", "Telefon: ", 'phone": "', "t\u00e9l: ")
        )
        return word + digits, digits
    if style == "mark":
        groups = [group for group in re.split(r"[^0-9]+", text) if group]
        return _same(rng.choice(".-").join(groups) if len(groups) > 2 else "/".join(groups))  # noqa: PLR2004 - more than an area and a number
    return _same(text)


def _card(rng: random.Random) -> Made:
    prefix, size = rng.choice(
        (
            ("4", 16),
            ("51", 16),
            ("55", 16),
            ("2221", 16),
            ("34", 15),
            ("37", 15),
            ("6011", 16),
            ("65", 16),
            ("3528", 16),
            ("36", 14),
            ("62", 16),
            ("2200", 16),
        )
    )
    body = prefix + some(rng, size - len(prefix) - 1)
    number = body + luhn.calc_check_digit(body)
    gap = rng.choice(("", " ", "-"))
    cuts = (4, 10) if size in {14, 15} else (4, 8, 12)
    for cut in reversed(cuts):
        number = number[:cut] + gap + number[cut:]
    return _same(number)


def _ssn(rng: random.Random) -> Made:
    while True:
        text = f"{rng.randrange(1, 900):03}-{rng.randrange(1, 100):02}-{rng.randrange(1, 10000):04}"
        if ssn.is_valid(text):
            break
    style = rng.randrange(4)
    if style == 0:
        bare = text.replace("-", "")
        return f"SSN: {bare}", bare
    if style == 1:
        spaced = text.replace("-", " ")
        return f"social security no. {spaced}", spaced
    return _same(text)


def _iban(rng: random.Random) -> Made:
    country, body = rng.choice(
        (
            lambda: ("DE", some(rng, 18)),
            lambda: ("GB", "NWBK" + some(rng, 14)),
            lambda: ("NL", "ABNA" + some(rng, 10)),
            lambda: ("CH", some(rng, 17)),
            lambda: ("AT", some(rng, 16)),
            lambda: ("FR", some(rng, 23)),
            lambda: ("PL", some(rng, 24)),
            lambda: ("SE", some(rng, 20)),
            lambda: ("DK", some(rng, 14)),
            lambda: ("MT", "MALT" + some(rng, 5) + some(rng, 18)),
        )
    )()
    number = country + mod_97_10.calc_check_digits(body + country) + body
    style = rng.choice(("plain", " ", "-", "lower"))
    if style in {" ", "-"}:
        number = style.join(number[at : at + 4] for at in range(0, len(number), 4))
    return _same(number.lower() if style == "lower" else number)


def _address(rng: random.Random) -> Made:
    if rng.random() < 0.6:  # noqa: PLR2004 - more often than not
        first = rng.choice((8, 23, 52, 81, 93, 134, 151, 185, 203, 217))
        return _same(
            f"{first}.{rng.randrange(1, 200)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"
        )
    groups = ["2a02" if rng.random() < 0.5 else "2001", f"{rng.randrange(0x800, 0xD00):x}"]  # noqa: PLR2004 - either
    rest = [f"{rng.randrange(1, 65536):x}" for _ in range(6)]
    if rng.random() < 0.5:  # noqa: PLR2004 - half are short
        return _same(":".join(groups) + "::" + ":".join(rest[:2]))
    return _same(":".join(groups + rest))


def _passport(rng: random.Random) -> Made:
    number = rng.choice(("C01X00T47", "", "")) or rng.choice(
        (f"{some(rng, 9)}", f"{some(rng, 2, string.ascii_uppercase)}{some(rng, 7)}")
    )
    if rng.random() < 0.5:  # noqa: PLR2004 - half are machine-readable
        number = (some(rng, 2, string.ascii_uppercase) + some(rng, 7))[:9]
        born, ends = (
            date(rng),
            f"{rng.randrange(27, 35)}{rng.randrange(1, 13):02}{rng.randrange(1, 28):02}",
        )
        line = (
            number
            + _weighed(number)
            + "UTO"
            + born
            + _weighed(born)
            + "F"
            + ends
            + _weighed(ends)
            + "<" * 14
            + "00"
        )
        return _same(line)
    name = rng.choice(
        ("Passport no. ", "passport number: ", "Reisepass Nr. ", "Passeport n° ", "pasaporte ")
    )
    return name + number, number


def _weighed(field: str) -> str:
    values = (0 if c == "<" else int(c, 36) for c in field)
    return str(sum(value * (7, 3, 1)[index % 3] for index, value in enumerate(values)) % 10)


_WORD: Final = string.ascii_letters + string.digits


def _api_key(rng: random.Random) -> Made:
    makers: tuple[Callable[[], str], ...] = (
        lambda: "AKIA" + some(rng, 16, string.ascii_uppercase + "234567"),
        lambda: "ghp_" + some(rng, 36, _WORD),
        lambda: "github_pat_" + some(rng, 22, _WORD) + "_" + some(rng, 59, _WORD),
        lambda: "sk-proj-" + some(rng, 48, _WORD),
        lambda: "sk-ant-api03-" + some(rng, 80, _WORD + "-_") + "AA",
        lambda: "xoxb-" + some(rng, 12) + "-" + some(rng, 12) + "-" + some(rng, 24, _WORD),
        lambda: "AIza" + some(rng, 35, _WORD),
        lambda: "sk_live_" + some(rng, 24, _WORD),
        lambda: "rk_test_" + some(rng, 24, _WORD),
        lambda: "glpat-" + some(rng, 20, _WORD),
        lambda: "hf_" + some(rng, 34, string.ascii_letters),
        lambda: "wv_" + some(rng, 40, _WORD),
        lambda: "npm_" + some(rng, 36, _WORD),
        lambda: "SG." + some(rng, 22, _WORD) + "." + some(rng, 43, _WORD),
    )
    return _same(rng.choice(makers)())


def _encoded(rng: random.Random, size: int) -> str:
    return base64.urlsafe_b64encode(rng.randbytes(size)).rstrip(b"=").decode()


def _token(rng: random.Random) -> Made:
    body = base64.urlsafe_b64encode(b'{"sub":"%d"}' % rng.randrange(10**6)).rstrip(b"=").decode()
    return _same(f"eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.{body}.{_encoded(rng, 64)}")


def _private_key(rng: random.Random) -> Made:
    kind = rng.choice(("RSA ", "EC ", "", "OPENSSH ", "ENCRYPTED "))
    lines = [base64.b64encode(rng.randbytes(48)).decode() for _ in range(rng.randrange(3, 20))]
    text = "\n".join(
        (f"-----BEGIN {kind}PRIVATE KEY-----", *lines, f"-----END {kind}PRIVATE KEY-----")
    )
    return _same(text)


def _password(rng: random.Random) -> Made:
    secret = some(rng, 12, _WORD + "!$")
    scheme = rng.choice(("postgres", "redis", "https", "amqp", "mongodb+srv"))
    return f"{scheme}://app:{secret}@db.internal:5432/x", secret


MAKERS: Final[dict[str, Callable[[random.Random], Made]]] = {
    "API_KEY": _api_key,
    "CARD": _card,
    "EMAIL": _email,
    "IBAN": _iban,
    "IP_ADDRESS": _address,
    "NATIONAL_ID": national,
    "PASSPORT": _passport,
    "PASSWORD": _password,
    "PHONE": _phone,
    "PRIVATE_KEY": _private_key,
    "SSN": _ssn,
    "TOKEN": _token,
}


def _broken(make: Callable[[random.Random], Made], digit: int) -> Callable[[random.Random], str]:
    """Return values with one digit changed, so that their check fails."""

    def broken(rng: random.Random) -> str:
        text = make(rng)[0]
        places = [index for index, character in enumerate(text) if character.isdigit()]
        at = places[digit]
        return text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]

    return broken


def _time(rng: random.Random) -> str:
    day = f"2026-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"
    return f"{day} {rng.randrange(24):02}:{rng.randrange(60):02}:00.{some(rng, 6)}"


def _public_key(rng: random.Random) -> str:
    key = base64.b64encode(rng.randbytes(40)).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{key}\n-----END PUBLIC KEY-----"


MISSES: Final[tuple[Callable[[random.Random], str], ...]] = (
    _broken(_card, -1),
    _broken(_iban, -1),
    lambda rng: f"{rng.choice(('000', '666'))}-{some(rng, 2)}-{some(rng, 4)}",
    lambda rng: f"{rng.randrange(100, 900)}-00-{some(rng, 4)}",
    lambda rng: str(uuid.UUID(int=rng.getrandbits(128))),
    lambda rng: rng.randbytes(20).hex(),
    _time,
    lambda rng: f"v{rng.randrange(20)}.{rng.randrange(20)}.{rng.randrange(20)}",
    lambda rng: f"0.{some(rng, 16)}",
    lambda rng: f"10.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)}",
    lambda rng: str(rng.randrange(1_600_000_000_000, 1_800_000_000_000)),
    lambda rng: f"@app.route('/{some(rng, 5, string.ascii_lowercase)}')",
    lambda rng: f"a@b[{rng.randrange(9)}]",
    lambda rng: f"logo@{rng.randrange(1, 4)}x.png",
    lambda rng: f"{rng.randrange(1, 999)},{some(rng, 3)},{some(rng, 3)}.{some(rng, 2)}",
    lambda rng: f"sk-{'-'.join(some(rng, 6, string.ascii_lowercase) for _ in range(4))}",
    lambda rng: f"std::vector<int> x{{{rng.randrange(99)}}};",
    lambda rng: f"+{rng.randrange(1, 99)} points, -{rng.randrange(1, 99)} points",
    _public_key,
    lambda rng: f"chr{rng.randrange(1, 22)}:{10**5 + rng.randrange(10**5)}-{some(rng, 6)}",
    lambda rng: f"isbn 978-{some(rng, 1)}-{some(rng, 4)}-{some(rng, 4)}-{some(rng, 1)}",
    lambda rng: base64.b64encode(rng.randbytes(150)).decode(),
    lambda rng: f"{rng.randrange(1, 29):02}.{rng.randrange(1, 13):02}.{rng.randrange(1990, 2030)}",
    lambda rng: f"{rng.randrange(1, 13):02}/{rng.randrange(1, 29):02}/{rng.randrange(1990, 2030)}",
    lambda rng: f"{rng.randrange(1990, 2010)}-{rng.randrange(2010, 2030)}",
    lambda rng: f"${rng.randrange(1, 999)} {some(rng, 3)} {some(rng, 3)}.{some(rng, 2)}",
    lambda rng: f"order #{rng.randrange(10**9, 10**10)}",
    lambda rng: f"{some(rng, 2)}.{some(rng, 7)}, -{some(rng, 3)}.{some(rng, 7)}",
    lambda rng: str(rng.randrange(1_600_000_000, 1_800_000_000)),
    lambda rng: f"{some(rng, 4)} {some(rng, 4)} {some(rng, 4)} {some(rng, 4)} {some(rng, 4)}",
    lambda rng: f"{rng.randrange(24):02}:{rng.randrange(60):02}-{rng.randrange(24):02}:30",
    lambda rng: f"0.{some(rng, 9)}",
    lambda rng: f"https://example.com/{some(rng, 3)}-{some(rng, 3)}-{some(rng, 4)}",
)
