"""An issuer's keys: fetched, kept while it is away, given up when it takes them back."""

import asyncio
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from services.common.clock import SystemClock
from services.common.errors import Unauthenticated, Unavailable
from services.gateway import jwks
from services.gateway.jwks import FetchError, IssuerKeys
from services.gateway.key_ring import KeyRing, read_jwks
from services.gateway.tokens import Tokens
from services.gateway.verification_keys import KeyRefused, from_jwk, from_pem
from tests.fakes.tokens import (
    ALL,
    EC_KEY,
    ED_KEY,
    NOW,
    OTHER_RSA_KEY,
    RSA_KEY,
    TurnedClock,
    jwk,
    public_pem,
    token,
    tokens,
)

LEAST_S = 10.0
SHORT_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - to be refused
ELSE_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


class FakeIssuer:
    """Publishes keys, counts who asks, and can be away."""

    def __init__(self, **keys: Any) -> None:
        self.keys = keys
        self.document: bytes | None = None
        self.error: Exception | None = None
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self) -> bytes:
        self.asked += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        if self.document is not None:
            return self.document
        return msgspec.json.encode({"keys": [jwk(key, kid=kid) for kid, key in self.keys.items()]})


class Told:
    """Keeps what an observer is told."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.versions: list[tuple[str, str]] = []

    def keys_read(self, source: str, problem: str, before: str, now: str) -> None:
        assert source in {"jwks", "files"}
        self.problems.append(problem)
        self.versions.append((before, now))


class Room:
    """A gateway's part of it: a ring, and what verifies tokens."""

    def __init__(self, issuer: FakeIssuer) -> None:
        self.clock = TurnedClock(NOW)
        self.ring = KeyRing()
        self.told = Told()
        self.keys = IssuerKeys(
            issuer.fetch, self.ring, self.clock, self.told, refresh_s=300, least_s=LEAST_S
        )
        self.tokens: Tokens = tokens(ring=self.ring, clock=self.clock, issuer=self.keys)

    async def subject(self, kid: str, key: Any) -> str:
        who = await self.tokens.principal(token(key=key, header={"kid": kid}))
        return who.subject


async def test_a_token_is_verified_by_a_key_that_is_fetched_for_it() -> None:
    issuer = FakeIssuer(a=RSA_KEY)
    assert await Room(issuer).subject("a", RSA_KEY) == "alice"
    assert issuer.asked == 1


async def test_many_tokens_of_an_unknown_key_have_the_keys_fetched_once() -> None:
    issuer = FakeIssuer(a=RSA_KEY)
    room = Room(issuer)
    issuer.gate.clear()
    calls = [asyncio.create_task(room.subject("a", RSA_KEY)) for _ in range(50)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    issuer.gate.set()
    assert await asyncio.gather(*calls) == ["alice"] * 50
    assert issuer.asked == 1


async def test_unknown_keys_have_the_keys_fetched_at_most_once_an_interval() -> None:
    issuer = FakeIssuer(a=RSA_KEY)
    room = Room(issuer)
    for number in range(100):
        with pytest.raises(Unauthenticated, match="not known here"):
            await room.subject(f"guess-{number}", OTHER_RSA_KEY)
    assert issuer.asked == 1
    room.clock.now += LEAST_S
    with pytest.raises(Unauthenticated, match="not known here"):
        await room.subject("guess", OTHER_RSA_KEY)
    assert issuer.asked == 2


async def test_bad_signatures_under_a_known_key_fetch_at_most_once_an_interval() -> None:
    """Promise: no forger has the issuer asked more often than its interval allows."""
    issuer = FakeIssuer(a=RSA_KEY)
    room = Room(issuer)
    await room.keys.renew()
    for _ in range(20):
        with pytest.raises(Unauthenticated, match="does not verify"):
            await room.subject("a", OTHER_RSA_KEY)
    assert issuer.asked == 1
    room.clock.now += LEAST_S
    forged = [room.subject("a", OTHER_RSA_KEY) for _ in range(20)]
    guessed = [room.subject("b", OTHER_RSA_KEY) for _ in range(20)]
    answers = await asyncio.gather(*forged, *guessed, return_exceptions=True)
    assert all(isinstance(answer, Unauthenticated) for answer in answers)
    assert issuer.asked == 2


async def test_a_new_key_under_an_old_id_is_asked_for() -> None:
    """Promise: an issuer that uses an id again locks nobody out, and its old key is gone."""
    issuer = FakeIssuer(a=RSA_KEY)
    room = Room(issuer)
    assert await room.subject("a", RSA_KEY) == "alice"
    issuer.keys = {"a": OTHER_RSA_KEY}
    with pytest.raises(Unauthenticated, match="does not verify"):
        await room.subject("a", OTHER_RSA_KEY)
    room.clock.now += LEAST_S
    assert await room.subject("a", OTHER_RSA_KEY) == "alice"
    with pytest.raises(Unauthenticated, match="does not verify"):
        await room.subject("a", RSA_KEY)
    assert issuer.asked == 2


async def test_a_new_key_of_another_kind_under_an_old_id_is_asked_for() -> None:
    issuer = FakeIssuer(a=RSA_KEY)
    room = Room(issuer)
    await room.keys.renew()
    issuer.keys = {"a": EC_KEY}
    room.clock.now += LEAST_S
    verifier = tokens(ring=room.ring, clock=room.clock, issuer=room.keys, algorithms=ALL)
    signed = token(algorithm="ES256", key=EC_KEY, header={"kid": "a"})
    assert (await verifier.principal(signed)).subject == "alice"


async def test_a_forgery_under_a_known_key_is_refused_while_the_issuer_is_away() -> None:
    issuer = FakeIssuer(a=RSA_KEY)
    room = Room(issuer)
    await room.keys.renew()
    issuer.error = FetchError("down")
    room.clock.now += LEAST_S
    with pytest.raises(Unauthenticated, match="does not verify"):
        await room.subject("a", OTHER_RSA_KEY)


async def test_a_rotation_is_followed_and_the_old_key_lets_nobody_in_any_more() -> None:
    """Promise: a key that its issuer takes back is gone, with every token that it verified."""
    issuer = FakeIssuer(a=RSA_KEY)
    room = Room(issuer)
    assert await room.subject("a", RSA_KEY) == "alice"
    issuer.keys = {"b": OTHER_RSA_KEY}
    room.clock.now += LEAST_S
    assert await room.subject("b", OTHER_RSA_KEY) == "alice"
    with pytest.raises(Unauthenticated, match="not known here"):
        await room.subject("a", RSA_KEY)
    assert [before for before, _ in room.told.versions] == ["", room.told.versions[0][1]]


@pytest.mark.parametrize(
    "broken",
    [
        FetchError("the issuer answered 500"),
        RuntimeError("what nobody thought of"),
        b"",
        b"<html>",
        b'{"keys":[]}',
        b'{"keys":{}}',
        b'{"keys":[1]}',
        b'{"keys":[{"kty":"oct","k":"AAAA","kid":"a"}]}',
        b'{"keys":[],"keys":[]}',
        b"[" * 5000,
    ],
)
async def test_an_issuer_that_breaks_changes_nothing(broken: bytes | Exception) -> None:
    """Promise: keys are kept while their issuer is down, and it shows."""
    issuer = FakeIssuer(a=RSA_KEY)
    room = Room(issuer)
    assert await room.subject("a", RSA_KEY) == "alice"
    issuer.document, issuer.error = (
        (None, broken) if isinstance(broken, Exception) else (broken, None)
    )
    room.clock.now += LEAST_S
    with pytest.raises(Unavailable) as caught:
        await room.subject("b", OTHER_RSA_KEY)
    assert caught.value.reason == "IDENTITY_UNAVAILABLE"
    assert await room.subject("a", RSA_KEY) == "alice"
    assert room.told.problems[0] == ""
    assert room.told.problems[1]
    assert not room.keys.reachable
    issuer.document = issuer.error = None
    issuer.keys["b"] = OTHER_RSA_KEY
    room.clock.now += LEAST_S
    assert await room.subject("b", OTHER_RSA_KEY) == "alice"
    assert room.keys.reachable


async def test_a_token_is_not_called_bad_before_its_issuer_was_ever_reached() -> None:
    """Promise: a dependency that is down never turns into a wrong 401."""
    issuer = FakeIssuer(a=RSA_KEY)
    issuer.error = FetchError("down")
    room = Room(issuer)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await room.subject("a", RSA_KEY)
    assert issuer.asked == 1


async def test_a_token_without_an_id_may_mean_a_key_that_is_not_here_yet() -> None:
    issuer = FakeIssuer(a=RSA_KEY)
    issuer.error = FetchError("down")
    room = Room(issuer)
    with pytest.raises(Unavailable):
        await room.tokens.principal(token())
    issuer.error = None
    room.clock.now += LEAST_S
    assert (await room.tokens.principal(token())).subject == "alice"
    with pytest.raises(Unauthenticated, match="does not verify"):
        await room.tokens.principal(token(key=OTHER_RSA_KEY))
    issuer.keys["b"] = OTHER_RSA_KEY
    room.clock.now += LEAST_S
    assert (await room.tokens.principal(token(key=OTHER_RSA_KEY))).subject == "alice"
    assert issuer.asked == 3


async def test_a_caller_does_not_wait_for_an_issuer_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jwks, "PATIENCE_S", 0.01)
    issuer = FakeIssuer(a=RSA_KEY)
    issuer.gate.clear()
    room = Room(issuer)
    with pytest.raises(Unavailable):
        await room.subject("a", RSA_KEY)
    issuer.gate.set()
    assert await room.subject("a", RSA_KEY) == "alice"
    assert issuer.asked == 1


async def test_a_caller_that_leaves_does_not_stop_the_fetch_for_others() -> None:
    issuer = FakeIssuer(a=RSA_KEY)
    issuer.gate.clear()
    room = Room(issuer)
    first = asyncio.create_task(room.subject("a", RSA_KEY))
    second = asyncio.create_task(room.subject("a", RSA_KEY))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    issuer.gate.set()
    assert await second == "alice"
    assert issuer.asked == 1


async def test_keys_are_fetched_in_the_background_too() -> None:
    issuer = FakeIssuer(a=RSA_KEY)
    room = Room(issuer)
    room.keys.start()
    while not room.keys.reachable:
        await asyncio.sleep(0)
    assert room.ring.knows("a")
    assert room.keys.age_s == 0
    await room.keys.close()


async def test_the_background_goes_on_fetching_and_sooner_while_the_issuer_is_down() -> None:
    issuer = FakeIssuer(a=RSA_KEY)
    issuer.error = FetchError("down")
    keys = IssuerKeys(issuer.fetch, KeyRing(), SystemClock(), Told(), refresh_s=60, least_s=0.005)
    keys.start()
    async with asyncio.timeout(5):
        while issuer.asked < 3:
            await asyncio.sleep(0.005)
        issuer.error = None
        while not keys.reachable:
            await asyncio.sleep(0.005)
    asked = issuer.asked
    await asyncio.sleep(0.05)
    assert issuer.asked == asked
    await keys.close()


async def test_keys_that_are_for_something_else_are_left_out_of_a_good_set() -> None:
    issuer = FakeIssuer()
    listed = [jwk(RSA_KEY, kid="a"), jwk(OTHER_RSA_KEY, kid="b", use="enc")]
    issuer.document = msgspec.json.encode({"keys": listed})
    room = Room(issuer)
    assert await room.subject("a", RSA_KEY) == "alice"
    room.clock.now += LEAST_S
    with pytest.raises(Unauthenticated, match="not known here"):
        await room.subject("b", OTHER_RSA_KEY)
    assert issuer.asked == 2
    assert room.told.problems == [""]


async def test_closing_ends_a_fetch_that_is_under_way() -> None:
    issuer = FakeIssuer()
    issuer.gate.clear()
    room = Room(issuer)
    room.keys.start()
    await asyncio.sleep(0)
    await room.keys.close()


async def test_keys_of_a_setting_work_while_the_issuer_is_down() -> None:
    issuer = FakeIssuer()
    issuer.error = FetchError("down")
    room = Room(issuer)
    room.ring.put("setting", from_pem(public_pem(RSA_KEY)))
    assert await room.subject("whatever", RSA_KEY) == "alice"
    assert issuer.asked == 0


@pytest.mark.parametrize("algorithm", ALL)
async def test_jwks_of_every_kind_verify_their_tokens(algorithm: str) -> None:
    ring = KeyRing()
    ring.put("jwks", [from_jwk(jwk(key)) for key in (RSA_KEY, EC_KEY, ED_KEY)])
    assert (await tokens(ring=ring).principal(token(algorithm))).subject == "alice"


@pytest.mark.parametrize(
    ("key", "members", "why"),
    [
        (RSA_KEY, {"use": "enc"}, "use"),
        (RSA_KEY, {"use": 5}, "use"),
        (RSA_KEY, {"key_ops": ["sign"]}, "key_ops"),
        (RSA_KEY, {"key_ops": "verify"}, "key_ops"),
        (RSA_KEY, {"key_ops": []}, "key_ops"),
        (RSA_KEY, {"alg": "ES256"}, "alg"),
        (RSA_KEY, {"alg": "HS256"}, "alg"),
        (RSA_KEY, {"alg": "RSA-OAEP"}, "alg"),
        (RSA_KEY, {"alg": ["RS256"]}, "alg"),
        (EC_KEY, {"alg": "RS256"}, "alg"),
        (ED_KEY, {"alg": "ES256"}, "alg"),
        (RSA_KEY, {"d": "AQAB"}, "private"),
        (RSA_KEY, {"k": "AQAB"}, "private"),
        (RSA_KEY, {"kid": 5}, "kid"),
        (RSA_KEY, {"kid": "k" * 257}, "kid"),
        (RSA_KEY, {"kty": "oct"}, "neither RSA"),
        (RSA_KEY, {"kty": "EC"}, "neither RSA"),
        (ED_KEY, {"crv": "X25519"}, "neither RSA"),
        (ED_KEY, {"x": "AAAA"}, "malformed"),
        (ED_KEY, {"x": None}, "malformed"),
        (EC_KEY, {"x": "AAAA"}, "malformed"),
        (EC_KEY, {"y": jwk(ec.generate_private_key(ec.SECP256R1()))["y"]}, "malformed"),
        (ec.generate_private_key(ec.SECP384R1()), {}, "neither RSA"),
        (RSA_KEY, {"n": ""}, "malformed"),
        (RSA_KEY, {"n": 5}, "malformed"),
        (EC_KEY, {"y": ["AQAB"]}, "malformed"),
        (RSA_KEY, {"n": "!"}, "malformed"),
        (RSA_KEY, {"e": "Aw"}, "exponent"),
        (SHORT_KEY, {}, "1024 bits"),
    ],
)
def test_a_key_that_is_not_for_this_is_left_out(
    key: Any, members: dict[str, Any], why: str
) -> None:
    with pytest.raises(KeyRefused, match=why):
        from_jwk(jwk(key, **members))
    keys, problems = read_jwks({"keys": [jwk(key, **members), jwk(ELSE_KEY)]})
    assert len(keys) == len(problems) == 1


def test_a_set_of_hundreds_of_keys_is_refused() -> None:
    with pytest.raises(KeyRefused, match="more than 100"):
        read_jwks({"keys": [{}] * 101})


def test_two_keys_with_one_id_are_both_tried() -> None:
    ring = KeyRing()
    ring.put("jwks", [from_jwk(jwk(key, kid="a")) for key in (RSA_KEY, OTHER_RSA_KEY, EC_KEY)])
    assert len(ring.candidates("a", "RS256")) == 2
    assert len(ring.candidates("a", "ES256")) == 1
    assert not ring.candidates("a", "EdDSA")


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["kty", "crv", "kid", "alg", "use", "key_ops", "n", "e", "x", "y"]),
            st.none()
            | st.integers()
            | st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "sig", "AQAB", "verify"])
            | st.text(max_size=6)
            | st.lists(st.text(max_size=4), max_size=2),
        ),
        max_size=3,
    )
)
def test_no_set_of_keys_is_anything_but_read_or_refused(listed: list[dict[str, Any]]) -> None:
    good = jwk(RSA_KEY, kid="good")
    keys, problems = read_jwks({"keys": [*listed, good]})
    assert len(keys) + len(problems) == len(listed) + 1
    assert keys[-1].id == "good"
