"""Tokens as attackers write them: the published tricks, each refused, and for its own reason."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import Unauthenticated
from services.gateway.key_ring import KeyRing
from services.gateway.principal import Principal
from services.gateway.verification_keys import from_jwk, from_pem
from tests.fakes.forgeries import ATTACKS, ORDER, with_signature
from tests.fakes.tokens import (
    ALL,
    CLAIMS,
    NOW,
    OTHER_RSA_KEY,
    RSA_KEY,
    b64,
    jwk,
    part,
    public_pem,
    token,
    tokens,
)


@pytest.mark.parametrize(("attack", "why"), ATTACKS.values(), ids=ATTACKS)
async def test_a_forged_token_is_refused_with_its_reason(attack: str, why: str) -> None:
    """Promise: nothing that a token says chooses how it is verified."""
    with pytest.raises(Unauthenticated, match=why) as caught:
        await tokens().principal(attack)
    assert "alice" not in caught.value.message
    assert "attacker" not in caught.value.message


@pytest.mark.parametrize("algorithm", ALL)
async def test_no_bit_of_a_token_can_be_changed(algorithm: str) -> None:
    good, verifier = token(algorithm), tokens()
    assert (await verifier.principal(good)).subject == "alice"
    step = max(1, len(good) // 60)
    for place in (*range(0, len(good), step), len(good) - 1):
        for other in "A_9.":
            if good[place] != other:
                with pytest.raises(Unauthenticated):
                    await verifier.principal(good[:place] + other + good[place + 1 :])


async def test_the_other_half_of_an_ecdsa_signature_speaks_for_the_same_principal() -> None:
    """Both S and n - S verify, and nothing is won by it: no token is known by its signature."""
    good = token("ES256")
    other = with_signature(
        "ES256", lambda s: s[:32] + (ORDER - int.from_bytes(s[32:])).to_bytes(32)
    )
    verifier = tokens()
    assert await verifier.principal(good) == await verifier.principal(other)


async def test_a_key_declared_for_one_algorithm_verifies_no_other() -> None:
    ring = KeyRing()
    ring.put("jwks", [from_jwk(jwk(RSA_KEY, kid="a", alg="PS256"))])
    verifier = tokens(ring=ring)
    assert (await verifier.principal(token("PS256", header={"kid": "a"}))).subject == "alice"
    with pytest.raises(Unauthenticated, match="its key is not one for its algorithm"):
        await verifier.principal(token(header={"kid": "a"}))


async def test_a_token_that_names_no_key_cannot_have_hundreds_tried() -> None:
    ring = KeyRing()
    pem = public_pem(OTHER_RSA_KEY)
    ring.put("files", [key for number in range(9) for key in from_pem(pem, f"k{number}")])
    with pytest.raises(Unauthenticated, match="names no key"):
        await tokens(ring=ring).principal(token())


@given(st.text(alphabet="abcXYZ019-_=.+/ ey", max_size=80))
async def test_no_text_is_anything_but_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        await tokens().principal(text)


@given(
    st.dictionaries(
        st.sampled_from(["alg", "typ", "kid", "crit", "jwk", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("RS256"),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
            max_leaves=4,
        ),
    )
)
async def test_no_header_makes_a_bad_signature_good(members: dict[str, Any]) -> None:
    forged = f"{part(json.dumps(members).encode())}.{part(CLAIMS)}.{b64(b'x' * 256)}"
    with pytest.raises(Unauthenticated):
        await tokens().principal(forged)


@given(
    st.dictionaries(
        st.sampled_from(["sub", "exp", "nbf", "iat", "iss", "aud", "tenant", "roles"]),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=True, allow_infinity=True)
            | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
            max_leaves=5,
        ),
    )
)
async def test_whatever_an_issuer_signs_is_a_principal_or_refused(claims: dict[str, Any]) -> None:
    made = token("EdDSA", claims=json.dumps({"exp": NOW + 60, **claims}).encode())
    try:
        who = await tokens().principal(made)
    except Unauthenticated:
        return
    assert isinstance(who, Principal)
    assert all(text and text.isprintable() for text in (who.tenant, who.issuer, who.subject))
