"""Bech32 (BIP 173) without its limit of length, as age writes its keys with it."""

from collections.abc import Iterable, Sequence

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM = 6


def encode(prefix: str, data: bytes) -> str:
    """Return bytes as text under a prefix, in lower case."""
    values = _regroup(data, 8, 5, pad=True)
    stretched = [*_stretched(prefix), *values, *([0] * _CHECKSUM)]
    folded = _fold(stretched) ^ 1
    checksum = [(folded >> 5 * (5 - position)) & 31 for position in range(_CHECKSUM)]
    return f"{prefix}1{''.join(_ALPHABET[value] for value in (*values, *checksum))}"


def decode(prefix: str, text: str) -> bytes:
    """Return the bytes of a text under a prefix.

    Raises:
        ValueError: it is not of this prefix, or was mistyped.
    """
    if text not in {text.lower(), text.upper()}:
        msg = "upper and lower case are mixed"
        raise ValueError(msg)
    found, _, letters = text.lower().rpartition("1")
    if found != prefix:
        msg = f"it does not begin with {prefix}1"
        raise ValueError(msg)
    values = [_ALPHABET.find(letter) for letter in letters]
    if len(values) < _CHECKSUM or -1 in values or _fold([*_stretched(prefix), *values]) != 1:
        msg = "it was mistyped: its checksum is wrong"
        raise ValueError(msg)
    return bytes(_regroup(values[:-_CHECKSUM], 5, 8, pad=False))


def _stretched(prefix: str) -> list[int]:
    return [ord(letter) >> 5 for letter in prefix] + [0] + [ord(letter) & 31 for letter in prefix]


def _fold(values: Iterable[int]) -> int:
    folded = 1
    for value in values:
        top = folded >> 25
        folded = (folded & 0x1FFFFFF) << 5 ^ value
        for position, term in enumerate(_GENERATOR):
            folded ^= term if top >> position & 1 else 0
    return folded


def _regroup(data: Sequence[int], width: int, wanted: int, *, pad: bool) -> list[int]:
    """Turn numbers of one width in bits into numbers of another.

    Raises:
        ValueError: bits are left over that say something.
    """
    gathered = bits = 0
    groups = []
    for value in data:
        gathered = gathered << width | value
        bits += width
        while bits >= wanted:
            bits -= wanted
            groups.append(gathered >> bits & (1 << wanted) - 1)
        gathered &= (1 << bits) - 1
    if pad and bits:
        groups.append(gathered << (wanted - bits) & (1 << wanted) - 1)
    elif not pad and (bits >= width or gathered):
        msg = "it was mistyped: its end is wrong"
        raise ValueError(msg)
    return groups
