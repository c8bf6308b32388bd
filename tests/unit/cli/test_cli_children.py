"""What the children of `weaver up` are given, and what they are not."""

import pytest

from services.cli.children import SERVICES, service

SECRETS = {
    "WEAVER_TELEMETRY_SIGNING_KEY": "pem",
    "WEAVER_TELEMETRY_SIGNING_KEY_PASSPHRASE": "made up",
    "WEAVER_TELEMETRY_SIGNING_KEY_PREVIOUS_FILE": "/run/secrets/previous",
    "WEAVER_AUDIT_ED25519_KEY_FILE": "/run/secrets/ed25519",
    "WEAVER_AUDIT_STORE_KEY": "made up",
}
OTHERS = {
    "PATH": "/bin",
    "WEAVER_TELEMETRY_VERIFICATION_KEY": "public",
    "WEAVER_AUDIT_PATH": "/log",
}


@pytest.mark.parametrize("name", SERVICES)
def test_the_private_keys_reach_the_audit_service_alone(name: str) -> None:
    """The private key lives in the audit service alone."""
    given = service(name, SECRETS | OTHERS).environment
    assert given == (SECRETS | OTHERS if name == "audit" else OTHERS)
