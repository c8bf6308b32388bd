"""Public keys in files: read strictly, followed, and a bad one changes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa

from services.common.errors import Unauthenticated
from services.gateway.key_files import KeyFiles, read
from services.gateway.key_ring import KeyRing
from services.gateway.recent import Recent
from services.gateway.verification_keys import KeyRefused, from_pem
from tests.fakes.tokens import (
    EC_KEY,
    ED_KEY,
    OTHER_RSA_KEY,
    RSA_KEY,
    jwk,
    public_pem,
    token,
    tokens,
)

PRIVATE_PEM = RSA_KEY.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)
SHORT_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - to be refused


class Told:
    """Keeps what an observer is told."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def keys_read(self, source: str, problem: str, before: str, now: str) -> None:
        assert (source, bool(now)) == ("files", True)
        assert before != now or problem or self.problems
        self.problems.append(problem)


def test_a_directory_names_each_key_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_bytes(public_pem(RSA_KEY))
    (tmp_path / "b.c.pem").write_bytes(public_pem(EC_KEY))
    (tmp_path / ".hidden.pem").write_bytes(b"what a mounted secret keeps behind its links")
    (tmp_path / "README").write_bytes(b"no key")
    assert [key.id for key in read(tmp_path)] == ["a", "b.c"]


def test_a_file_is_a_set_or_keys_without_names(tmp_path: Path) -> None:
    one, two = tmp_path / "keys.json", tmp_path / "keys.pem"
    one.write_text(json.dumps({"keys": [jwk(RSA_KEY, kid="a", use="sig"), jwk(ED_KEY)]}))
    two.write_bytes(public_pem(RSA_KEY) + b"\n" + public_pem(EC_KEY))
    assert [key.id for key in read(one)] == ["a", ""]
    assert [key.id for key in read(two)] == ["", ""]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "holds no public key"),
        (b"ssh-rsa AAAA", "holds no public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "cannot be read"),
        (PRIVATE_PEM, "private key"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "certificate"),
        (public_pem(SHORT_KEY), "1024 bits"),
        (public_pem(ec.generate_private_key(ec.SECP384R1())), "neither an RSA key"),
        (public_pem(ed448.Ed448PrivateKey.generate()), "neither an RSA key"),
        (b"\0" * 10, "no PEM"),
        (b"-----BEGIN PUBLIC KEY-----\n" * 30_000, "no PEM"),
        (b'{"keys":[]}', "no key that can verify"),
        (b'{"keys":', "malformed"),
        (b"[]", "holds no public key"),
        (json.dumps({"keys": [jwk(RSA_KEY), jwk(ED_KEY, use="enc")]}).encode(), r"keys\[1\]"),
    ],
)
def test_a_file_that_holds_something_else_is_refused_by_its_name(
    tmp_path: Path, content: bytes, why: str
) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(KeyRefused, match=why) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "PRIVATE KEY" not in str(caught.value)


@pytest.mark.parametrize("names", [[], ["a\n.pem"], ["good.pem", "a\tb.pem"]])
def test_a_directory_without_good_names_is_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_bytes(public_pem(RSA_KEY))
    with pytest.raises(KeyRefused):
        read(tmp_path)


async def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyRefused, match="No such file"):
        KeyFiles(tmp_path / "none", KeyRing(), Told()).first()


async def test_changed_files_are_followed_and_bad_ones_change_nothing(tmp_path: Path) -> None:
    """Promise: a key whose file is gone lets nobody in any more; a bad file changes nothing."""

    async def accepted(kid: str, key: Any) -> bool:
        try:
            await verifier.principal(token(key=key, header={"kid": kid}))
        except Unauthenticated:
            return False
        return True

    ring, told = KeyRing(), Told()
    (tmp_path / "a.pem").write_bytes(public_pem(RSA_KEY))
    files = KeyFiles(tmp_path, ring, told)
    files.first()
    verifier = tokens(ring=ring)
    assert await accepted("a", RSA_KEY)
    await files.look()
    assert told.problems == [""]

    (tmp_path / "b.pem").write_bytes(b"half a k")
    await files.look()
    await files.look()
    assert await accepted("a", RSA_KEY)
    assert [bool(problem) for problem in told.problems] == [False, True]

    (tmp_path / "b.pem").write_bytes(public_pem(OTHER_RSA_KEY))
    await files.look()
    assert await accepted("b", OTHER_RSA_KEY)
    (tmp_path / "a.pem").unlink()
    await files.look()
    assert not await accepted("a", RSA_KEY)
    assert [bool(problem) for problem in told.problems] == [False, True, False, False]


def test_several_keys_in_one_setting_are_all_read() -> None:
    assert len(from_pem(public_pem(RSA_KEY) + public_pem(ED_KEY))) == 2


def test_what_was_found_lately_is_bounded_and_what_is_used_stays() -> None:
    recent: Recent[int, str] = Recent(10)
    for number in range(1000):
        recent.put(number, str(number))
        assert number < 1 or recent.get(1) == "1"
        assert len(recent) <= 10
    assert recent.get(999) == "999"
    assert recent.get(500) is None
    recent.forget(lambda value: value == "1")
    assert recent.get(1) is None
