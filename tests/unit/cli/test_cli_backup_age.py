"""Sealed backups: age's own format, both ways, and nothing that was changed comes out of one."""

import base64
import os

import pytest

from services.cli.backup import age, age_keys, bech32
from services.cli.backup.age import CHUNK, open_sealed, seal
from services.cli.backup.age_keys import AgeError, Passphrase, PublicKey, SecretKey

# pragma: allowlist nextline secret
IDENTITY = "AGE-SECRET-KEY-1DYLRH2ET3T3C3X7AW2NEM54PPJUU6CHKW9U7WCSVAQJ0JA6CF04QKP3DP2"
RECIPIENT = "age1e5nsmssufv2n54e2ynz2xap5h9rc7a8rr6tpklxdepjlf0265ufs9kyjmf"
SEALED_BY_AGE = base64.b64decode(
    "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSArZEJ0THowU3ZvVlJ3Zm9UcjNqUWJGK3E2UnU2cXdlbXM4"
    "aG1LSFBIM0h3Cllyc0xldEVOWG5TZE5NdHRHc0FQcjErVGZ0WHF3dUdvUHpzS1BLZHB2elEKLS0tIEFtT3M2Wnh2"
    "MjF4SEduKzBpWUczRElsUVBmSW1NMFVlWEsrcDlLYktrbE0KMdO2p4mU2PYfE0ERsOMFn5iWK9DL6ko5nR6mRZWd"
    "klmCkm+hI26bsCx1fIM2IrsrjM/H+Fdh3A=="
)
"""Made by age 1.1.1 for RECIPIENT."""

ME = SecretKey(IDENTITY)
FOR_ME = [PublicKey(RECIPIENT)]


def opened(sealed: bytes, piece: int = 1_000) -> bytes:
    pieces = [sealed[start : start + piece] for start in range(0, len(sealed), piece)]
    return b"".join(open_sealed(pieces, [ME]))


def test_what_age_sealed_is_opened() -> None:
    assert ME.recipient == RECIPIENT
    for piece in (1, 7, 1_000):
        assert opened(SEALED_BY_AGE, piece) == b"what age itself sealed\n"


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_what_is_sealed_comes_back_whatever_its_size(size: int) -> None:
    data = os.urandom(size)
    sealed = b"".join(seal([data[:10], data[10:]], FOR_ME))
    assert opened(sealed) == data
    assert data[:32] not in sealed or size < CHUNK - 1  # A byte or two may stand there by chance.


def test_no_byte_of_a_sealed_file_can_be_changed() -> None:
    sealed = b"".join(seal([b"the backup"], FOR_ME))
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(AgeError):
            opened(bytes(changed))


def test_no_sealed_file_can_be_cut_short_or_grow() -> None:
    sealed = b"".join(seal([os.urandom(2 * CHUNK)], FOR_ME))
    for end in (0, 10, 150, len(sealed) - CHUNK - 16, len(sealed) - 1):
        with pytest.raises(AgeError):
            opened(sealed[:end])
    with pytest.raises(AgeError):
        opened(sealed + b"x")


def test_each_of_several_recipients_opens_it_and_nobody_else() -> None:
    other, recipient = age_keys.generate()
    sealed = list(seal([b"for two"], [*FOR_ME, PublicKey(recipient)]))
    assert b"".join(open_sealed(sealed, [SecretKey(other)])) == b"for two"
    stranger, _ = age_keys.generate()
    with pytest.raises(AgeError, match="none of the given"):
        list(open_sealed(sealed, [SecretKey(stranger)]))


def test_a_passphrase_opens_what_it_sealed_and_another_does_not() -> None:
    sealed = list(seal([b"words"], [Passphrase("correct horse", work=4)]))
    assert b"".join(open_sealed(sealed, [ME, Passphrase("correct horse")])) == b"words"
    with pytest.raises(AgeError, match="none of the given"):
        list(open_sealed(sealed, [Passphrase("battery staple")]))


def test_a_passphrase_is_the_only_way_into_a_file() -> None:
    with pytest.raises(AgeError, match="only way"):
        list(seal([b""], [Passphrase("words", work=4), *FOR_ME]))
    with pytest.raises(AgeError, match="nobody could open it"):
        list(seal([b""], []))


def test_a_file_cannot_make_us_work_for_hours() -> None:
    sealed = b"".join(seal([b""], [Passphrase("words", work=4)]))
    greedy = sealed.replace(b" 4\n", b" 40\n", 1)
    with pytest.raises(AgeError, match="2\\^40"):
        list(open_sealed([greedy], [Passphrase("words")]))


@pytest.mark.parametrize(
    "text", ["", "age1", RECIPIENT[:-1] + "q", RECIPIENT.replace("age", "agf"), RECIPIENT[:20]]
)
def test_a_mistyped_recipient_is_refused(text: str) -> None:
    with pytest.raises(AgeError):
        PublicKey(text)


def test_a_refused_identity_is_not_shown() -> None:
    with pytest.raises(AgeError) as refused:
        SecretKey(IDENTITY[:-1] + "Q")
    assert IDENTITY[:30] not in str(refused.value)
    with pytest.raises(ValueError, match="mixed"):
        bech32.decode("age", RECIPIENT[:10].upper() + RECIPIENT[10:])


@pytest.mark.parametrize(
    "junk", [b"", b"PK\x03\x04", b"age-encryption.org/v1\n" * 2, b"x" * 100_000]
)
def test_what_is_no_sealed_file_is_refused(junk: bytes) -> None:
    with pytest.raises(AgeError):
        list(age.open_sealed([junk], [ME]))
