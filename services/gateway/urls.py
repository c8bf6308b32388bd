"""Which addresses a prompt may name, read as the one who fetches them would read them.

A reference to a picture or a document is fetched on behalf of the caller, by a provider or by a
server of ours. So it must not lead inwards, in none of the ways to write an address. Names are not
resolved: what they stand for can change between the look and the fetch; those that are known to
lead inwards are refused.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import unquote

import msgspec

SCHEMES: Final = frozenset(("http", "https", "data"))
_IGNORED: Final = re.compile(r"[\t\r\n]")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_QUERY: Final = re.compile(r"[?#]")
_PART: Final = re.compile(r"(0[xX][0-9a-fA-F]*|0[0-7]*|[1-9][0-9]*)")
_IN_NAME: Final = re.compile(
    r"(?<![0-9])([0-9]{1,3})[.-]([0-9]{1,3})[.-]([0-9]{1,3})[.-]([0-9]{1,3})(?![0-9])"
)
_INWARD_NAMES: Final = (
    "localhost",
    "*.localhost",
    "*.local",
    "*.localdomain",
    "*.internal",
    "*.intranet",
    "*.private",
    "*.corp",
    "*.home",
    "*.lan",
    "*.home.arpa",
    "*.svc",
    "*.consul",
    # These names answer with an address of this machine, or with one that stands in the name.
    "localtest.me",
    "*.localtest.me",
    "lvh.me",
    "*.lvh.me",
    "vcap.me",
    "*.vcap.me",
    "lacolhost.com",
    "*.lacolhost.com",
    "*.nip.io",
    "*.sslip.io",
)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_LAST_PARTS: Final = {1: 0xFFFFFFFF, 2: 0xFFFFFF, 3: 0xFFFF, 4: 0xFF}
_OCTET: Final = 0xFF


class URLRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which hosts may be named.

    Args:
        allow: patterns of hosts; empty for all.
        deny: patterns of hosts, before those.
        private: whether addresses of private networks and of this machine may be named.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    private: bool = False

    def problem(self, url: str) -> str:
        """Return why a URL must not be fetched; "" when it may be."""
        text = _IGNORED.sub("", url).strip()
        scheme = _SCHEME.match(text)
        if scheme is None:
            return "must be a whole URL"
        if scheme[1].lower() == "data":
            return ""
        if scheme[1].lower() not in SCHEMES:
            return "must be an https, http or data URL"
        if "\\" in _QUERY.split(text, maxsplit=1)[0]:
            # A slash for some readers and for others not, who find another host behind it.
            return "must not hold a backslash"
        return self.host_problem(host(text))

    def host_problem(self, name: str) -> str:
        """Return why a host must not be named; "" when it may be."""
        if not name:
            return "must name a host"
        if _fits(name, self.deny):
            return "names a host that is not allowed"
        if self.allow and _fits(name, self.allow):
            return ""
        if self.allow:
            return "names a host that is not allowed"
        if not self.private and leads_inwards(name):
            return "must not lead into a private network"
        return ""


def host(url: str) -> str:
    """Return the host of a whole URL in its plainest form, addresses as numbers; "" for none."""
    rest = url.partition(":")[2].replace("\\", "/").lstrip("/")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    if authority.startswith("["):
        inner = authority[1:].partition("]")[0].partition("%")[0]
        try:
            return str(ipaddress.IPv6Address(inner))
        except ValueError:
            return ""
    name = authority.partition(":")[0]
    name = unicodedata.normalize("NFKC", unquote(name)).lower().replace("\u3002", ".")
    name = "".join(character for character in name if unicodedata.category(character) != "Cf")
    name = name.rstrip(".")
    address = _ipv4(name)
    return str(address) if address is not None else _ascii(name)


def leads_inwards(name: str) -> bool:
    """Say whether a host is private, or a name that is known to lead to one that is."""
    try:
        return _is_inward(ipaddress.ip_address(name))
    except ValueError:
        pass
    if "." not in name or _fits(name, _INWARD_NAMES):
        return True
    inside = _IN_NAME.search(name)
    if inside is None:
        return False
    try:
        return _is_inward(ipaddress.ip_address(".".join(inside.groups())))
    except ValueError:
        return False


def _is_inward(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is None and int(address) >> 32 == 0 and int(address) > 1:
            inner = ipaddress.IPv4Address(int(address))
        if inner is not None:
            return _is_inward(inner)
        if address.teredo is not None:
            return True
    return not address.is_global or address.is_multicast


def _ipv4(name: str) -> ipaddress.IPv4Address | None:
    """Return the address that a name is, in any of the forms that resolvers know."""
    parts = name.split(".")
    if len(parts) > 4 or not all(_PART.fullmatch(part) for part in parts):  # noqa: PLR2004 - octets
        return None
    numbers = [_number(part) for part in parts]
    if any(number > _OCTET for number in numbers[:-1]) or numbers[-1] > _LAST_PARTS[len(parts)]:
        return None
    value = numbers[-1]
    for index, number in enumerate(numbers[:-1]):
        value += number << (24 - 8 * index)
    return ipaddress.IPv4Address(value)


def _number(part: str) -> int:
    if part[:2] in {"0x", "0X"}:
        return int(part[2:] or "0", 16)
    return int(part, 8) if len(part) > 1 and part[0] == "0" else int(part[:20])


def _ascii(name: str) -> str:
    if name.isascii():
        return name
    try:
        return name.encode("idna").decode()
    except UnicodeError:
        return ""


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
