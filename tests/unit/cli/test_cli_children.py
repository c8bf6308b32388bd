"""What the children of `weaver up` are given, and what they are not."""

import pytest

from services.cli.children import SERVICES, gateway, service
from services.cli.settings import EdgeSettings
from services.common.settings import load

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


@pytest.mark.parametrize("separate", [False, True])
def test_a_further_gateway_is_told_its_own_addresses_and_no_private_key(*, separate: bool) -> None:
    edge = load(EdgeSettings, gateway_workers=3, edge_listen="unix:/run/gateway.sock")
    first = {
        "WEAVER_GATEWAY_LISTEN": "127.0.0.1:8000",
        "WEAVER_GATEWAY_METRICS_LISTEN": "[::1]:9464",
        "WEAVER_RATELIMIT_METRICS_LISTEN": "",
        "WEAVER_GATEWAY_INSTANCE": "here",
    }
    program = gateway(3, SECRETS | OTHERS | first, edge, separate=separate)
    assert program.name == "gateway-3"
    given = program.environment
    assert not SECRETS.keys() & given.keys()
    assert given["WEAVER_GATEWAY_EDGE_LISTEN"] == "unix:/run/gateway-3.sock"
    assert not given["WEAVER_GATEWAY_LISTEN"]
    assert given["WEAVER_GATEWAY_METRICS_LISTEN"] == "[::1]:9484"
    assert given["WEAVER_GATEWAY_INSTANCE"] == "here-3"
    assert not given["WEAVER_RATELIMIT_METRICS_LISTEN"]
    moved = given.get("WEAVER_MODEL_METRICS_LISTEN")
    assert moved == (None if separate else "127.0.0.1:9486")
