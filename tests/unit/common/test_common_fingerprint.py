"""What a start says of its settings: every change, and no value."""

from pathlib import Path

from services.audit.settings import AuditSettings
from services.common.fingerprint import start_attributes
from services.common.settings import load
from services.gateway.settings import GatewaySettings

SECRET = "a-made-up-secret-that-nobody-may-see"  # pragma: allowlist secret


def said(**changes: object) -> dict[str, str]:
    return start_attributes("audit", load(AuditSettings, **changes))


def test_the_same_settings_say_the_same() -> None:
    assert said() == said()
    assert said(allowed_clients=frozenset({"a", "b"})) == said(
        allowed_clients=frozenset({"b", "a"})
    )


def test_a_change_shows_by_its_name_and_not_by_its_value() -> None:
    before, after = said(), said(replica="audit-eu-7", audit_path=Path("/srv/hidden-place"))
    assert before["settings_sha256"] != after["settings_sha256"]
    names = {part.partition("=")[0] for part in after["settings"].split()}
    assert {"WEAVER_AUDIT_REPLICA", "WEAVER_AUDIT_PATH"} <= names
    assert "hidden-place" not in str(after)
    assert "audit-eu-7" not in str(after)


def test_what_nobody_set_is_no_change() -> None:
    unset = {name for name in said()["settings"].split() if "GRACE" in name}
    assert unset == set()
    assert "WEAVER_TELEMETRY_KEY_GRACE_DAYS=" in said(key_grace_days=31)["settings"]


def test_secrets_are_left_out_altogether() -> None:
    gateway, bare = load(GatewaySettings, allowed_api_keys=SECRET), load(AuditSettings)
    other = load(GatewaySettings, allowed_api_keys=SECRET[::-1])
    assert start_attributes("gateway", gateway) == start_attributes("gateway", other)
    assert start_attributes("gateway", gateway) != start_attributes("gateway", bare)
    assert SECRET not in str(start_attributes("gateway", gateway))
