"""Single events that are signed by themselves, outside the log: for telemetry and for trying keys.

An event says what, when and with which data, and carries an RSA (PKCS#1 v1.5, SHA-256) or Ed25519
signature over all of that. It proves who wrote it and nothing of what was written before or after:
that is what the log is for. The signed text begins with a line of its own, so that no event is a
checkpoint and no checkpoint an event.
"""

import base64
import binascii
import json
import uuid
from copy import deepcopy
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Self

from services.audit.keys.signers import KeyProblem, PrivateKey, Signer, load_private, load_rsa
from services.audit.keys.signers import public_key as load_public
from services.audit.note import VerifierKey

_HEADER = "weaver-signed-event/v1"
_NAME = "event"
_PRIVATE = "signing_key"
_PUBLIC = "public_key"


@dataclass
class SignedEvent:
    """An event and its signature; every field but the signature is signed.

    Attributes:
        event_id: a random UUID.
        event_type: what happened.
        timestamp: when it was signed: RFC 3339 in UTC.
        data: what belongs to it: a JSON object.
        key_fingerprint: SHA-256 of the public key's SubjectPublicKeyInfo, in hexadecimal.
        signature: in base64.
    """

    event_id: str
    event_type: str
    timestamp: str
    data: dict[str, Any]
    key_fingerprint: str
    signature: str = ""

    def to_json(self) -> str:
        """Return the event as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the event of a line of JSON, not yet verified.

        Raises:
            ValueError: it is no event.
        """
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            msg = f"not a signed event: {error}"
            raise ValueError(msg) from None


def sign_event(
    *,
    event_type: str,
    event_data: dict[str, Any],
    signing_key: str | bytes,
    passphrase: str | bytes | None = None,
) -> SignedEvent:
    """Return a signed event.

    Args:
        event_type: what happened.
        event_data: what belongs to it: a JSON object; it is copied.
        signing_key: an RSA (2048 bits or more) or Ed25519 private key in PEM.
        passphrase: opens the key where it is encrypted.

    Raises:
        KeyProblem: the key cannot be used; the message holds nothing of it.
        ValueError: the data is not JSON.
    """
    signer = Signer(_NAME, _private_key(_bytes(signing_key), passphrase))
    event = SignedEvent(
        event_id=str(uuid.uuid4()),
        event_type=event_type,
        timestamp=datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        data=deepcopy(event_data),
        key_fingerprint=signer.verifier.fingerprint,
    )
    event.signature = base64.b64encode(signer.sign(_text(event))).decode()
    return event


def verify_event_signature(event: SignedEvent, public_key: str | bytes) -> bool:
    """Say whether an event is as the holder of a key signed it.

    Args:
        event: the event.
        public_key: the RSA or Ed25519 public key in PEM.

    Raises:
        KeyProblem: there is no such key in it.
    """
    key = VerifierKey(_NAME, load_public(_bytes(public_key), _PUBLIC))
    try:
        signature = base64.b64decode(event.signature, validate=True)
        return key.verifies(_text(event), signature) and event.key_fingerprint == key.fingerprint
    except (ValueError, TypeError, binascii.Error):
        return False


def _private_key(pem: bytes, passphrase: str | bytes | None) -> PrivateKey:
    secret = None if passphrase is None else _bytes(passphrase)
    key = load_private(pem, _PRIVATE, secret)
    if not isinstance(key, PrivateKey):
        msg = f"{_PRIVATE}: holds a key that is neither RSA nor Ed25519."
        raise KeyProblem(msg)
    if Signer(_NAME, key).verifier.algorithm == "RSA":
        return load_rsa(pem, _PRIVATE, production=False, passphrase=secret)
    return key


def _text(event: SignedEvent) -> bytes:
    """Return what is signed: canonical JSON under a line that nothing else begins with.

    Raises:
        ValueError: the data is not JSON.
    """
    fields = asdict(event)
    del fields["signature"]
    _check_names(fields)
    try:
        body = json.dumps(
            fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return f"{_HEADER}\n{body}\n".encode()
    except (TypeError, RecursionError) as error:
        msg = f"event_data is not JSON: {error}"
        raise ValueError(msg) from None


def _check_names(value: object) -> None:
    """Refuse names that are no texts: JSON would make them some, and two could become one."""
    if isinstance(value, dict):
        for name, part in value.items():
            if not isinstance(name, str):
                msg = f"event_data is not JSON: the name {name!r} is no text"
                raise ValueError(msg)  # noqa: TRY004 - as for everything else that is no JSON
            _check_names(part)
    elif isinstance(value, list | tuple):
        for part in value:
            _check_names(part)


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
