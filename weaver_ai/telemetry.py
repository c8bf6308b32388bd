"""Signed events: `sign_event`, and `verify_event_signature` with the public key alone."""

from services.audit.keys.signed_event import SignedEvent, sign_event, verify_event_signature
from services.audit.keys.signers import KeyProblem

_sign_event = sign_event
"""The name that the deployment guide uses."""

__all__ = ["KeyProblem", "SignedEvent", "sign_event", "verify_event_signature"]
