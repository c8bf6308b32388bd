"""Events that are signed by themselves: the guide's own check, and what an attacker would try."""

import base64
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audit.keys import files as keyfiles
from services.audit.keys.signers import Signer, generate_rsa, load_ed25519, load_rsa, private_pem
from tests.fakes.auditlog import quick_keys
from weaver_ai.telemetry import (
    KeyProblem,
    SignedEvent,
    _sign_event,
    sign_event,
    verify_event_signature,
)

RSA, ED25519 = quick_keys()
PUBLIC = Signer("x", load_rsa(RSA.encode(), "x", production=False)).verifier.pem
PUBLIC_ED25519 = Signer("x", load_ed25519(ED25519.encode(), "x")).verifier.pem
DATA = {"user_id": "test@example.com", "action": "test", "deep": [{"n": 1.5}, None, True]}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PAGE = Path(__file__).resolve().parents[3] / "docs" / "api" / "events.md"


def signed(**data: Any) -> SignedEvent:
    return sign_event(event_type="test_event", event_data=data or DATA, signing_key=RSA)


def test_the_guides_own_check_works() -> None:
    """True as it was signed, and false after `event.data` is changed."""
    event = _sign_event(
        event_type="test_event",
        event_data={"user_id": "test@example.com", "action": "test"},
        signing_key=RSA,
    )
    assert verify_event_signature(event, PUBLIC) is True
    event.data["user_id"] = "attacker@example.com"
    assert verify_event_signature(event, PUBLIC) is False


def test_the_documented_script_prints_what_it_says(tmp_path: Path) -> None:
    keyfiles.write(tmp_path / "telemetry_signing_key.pem", RSA.encode(), 0o600, replace=False)
    (tmp_path / "telemetry_verification_key.pem").write_text(PUBLIC)
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["True", "False"], done.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"event_id": "other"},
        {"event_type": "other"},
        {"timestamp": "2020-01-01T00:00:00Z"},
        {"data": {}},
        {"data": {**DATA, "more": 1}},
        {"data": {"user_id": float("nan")}},
        {"data": {"user_id": object()}},
        {"data": {1: "x"}},
        {"data": "text"},
        {"key_fingerprint": "0" * 64},
        {"signature": ""},
        {"signature": "not base64"},
        {"signature": "ä"},
        {"signature": None},
        {"signature": base64.b64encode(b"x" * 256).decode()},
    ],
)
def test_every_change_shows(change: dict[str, Any]) -> None:
    assert verify_event_signature(replace(signed(), **change), PUBLIC) is False


def test_another_key_does_not_verify() -> None:
    other = Signer("x", generate_rsa(2048)).verifier.pem
    assert verify_event_signature(signed(), other) is False
    assert verify_event_signature(signed(), PUBLIC_ED25519) is False


def test_an_ed25519_key_signs_as_well() -> None:
    event = sign_event(event_type="x", event_data={}, signing_key=ED25519.encode())
    assert verify_event_signature(event, PUBLIC_ED25519.encode())
    assert not verify_event_signature(event, PUBLIC)


def test_an_encrypted_key_needs_its_passphrase() -> None:
    locked = private_pem(load_ed25519(ED25519.encode(), "x"), b"sesame")
    with pytest.raises(KeyProblem, match="no passphrase"):
        sign_event(event_type="x", event_data={}, signing_key=locked)
    event = sign_event(event_type="x", event_data={}, signing_key=locked, passphrase="sesame")
    assert verify_event_signature(event, PUBLIC_ED25519)


def test_the_event_keeps_its_own_copy_of_the_data() -> None:
    data: dict[str, Any] = {"list": [1]}
    event = sign_event(event_type="x", event_data=data, signing_key=ED25519)
    data["list"].append(2)
    assert verify_event_signature(event, PUBLIC_ED25519)


@pytest.mark.parametrize(
    "data", [{1: "x"}, {"a": [{2: 3}]}, {"x": {1, 2}}, {"x": float("inf")}, {"x": "\ud800"}]
)
def test_what_is_no_json_is_not_signed(data: Any) -> None:
    with pytest.raises(ValueError, match=r"JSON|surrogates"):
        sign_event(event_type="x", event_data=data, signing_key=ED25519)


def test_keys_that_cannot_be_used_are_named_without_showing_them() -> None:
    weak = private_pem(generate_rsa(1024)).decode()
    for bad in ("nonsense", PUBLIC, weak):
        with pytest.raises(KeyProblem, match=r"^signing_key: ") as caught:
            sign_event(event_type="x", event_data={}, signing_key=bad)
        assert "nonsense" not in str(caught.value)
    for bad in ("nonsense", RSA):
        with pytest.raises(KeyProblem, match=r"^public_key: "):
            verify_event_signature(signed(), bad)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_an_event_survives_json(data: dict[str, Any]) -> None:
    event = sign_event(event_type="x", event_data=data, signing_key=ED25519)
    again = SignedEvent.from_json(event.to_json())
    assert again == event
    assert verify_event_signature(again, PUBLIC_ED25519)


def test_a_line_that_is_no_event_is_refused() -> None:
    for line in ("", "{}", json.dumps({"data": {}}), "[]"):
        with pytest.raises(ValueError, match=r"signed event|Expecting"):
            SignedEvent.from_json(line)
