"""The Compose file: one published port, least privilege, and of one mind with the services."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.audit.settings import AuditSettings
from services.cli.deployment_secrets import PLACES, STORES
from services.cli.settings import EdgeSettings
from services.common.settings import CommonSettings
from services.gateway.settings import GatewaySettings
from services.model.settings import ModelSettings
from services.ratelimit.settings import RatelimitSettings

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "deploy" / "compose"
SETTINGS: dict[str, type[CommonSettings]] = {
    "gateway": GatewaySettings,
    "ratelimit": RatelimitSettings,
    "model": ModelSettings,
    "audit": AuditSettings,
    "envoy-config": EdgeSettings,
}
GUIDE = {
    "dev": """WEAVER_MODEL_PROVIDER WEAVER_MODEL_NAME WEAVER_AUTH_MODE WEAVER_ALLOWED_API_KEYS
        WEAVER_RATELIMIT_RPS WEAVER_RATELIMIT_BURST LOG_LEVEL REDIS_HOST REDIS_PORT REDIS_PASSWORD
        WEAVER_TELEMETRY_ENABLED WEAVER_TELEMETRY_SIGNING_ENABLED""",
    "staging": """WEAVER_MODEL_PROVIDER WEAVER_MODEL_NAME WEAVER_MODEL_API_KEY WEAVER_AUTH_MODE
        WEAVER_JWT_PUBLIC_KEY WEAVER_PII_REDACT WEAVER_RATELIMIT_RPS WEAVER_RATELIMIT_BURST
        REDIS_HOST REDIS_PORT REDIS_PASSWORD WEAVER_TELEMETRY_ENABLED WEAVER_TELEMETRY_ENDPOINT
        WEAVER_TELEMETRY_SIGNING_ENABLED WEAVER_TELEMETRY_SIGNING_KEY
        WEAVER_TELEMETRY_VERIFICATION_KEY""",
    "production": """WEAVER_MODEL_PROVIDER WEAVER_MODEL_NAME WEAVER_MODEL_API_KEY WEAVER_AUTH_MODE
        WEAVER_JWT_PUBLIC_KEY WEAVER_PII_REDACT WEAVER_AUDIT_PATH WEAVER_RATELIMIT_RPS
        WEAVER_RATELIMIT_BURST WEAVER_REQUEST_MAX_TOKENS WEAVER_REQUEST_TIMEOUT_MS REDIS_HOST
        REDIS_PORT REDIS_PASSWORD REDIS_DB WEAVER_TELEMETRY_ENABLED WEAVER_TELEMETRY_ENDPOINT
        WEAVER_TELEMETRY_SIGNING_ENABLED WEAVER_TELEMETRY_SIGNING_KEY
        WEAVER_TELEMETRY_VERIFICATION_KEY OTEL_SERVICE_NAME OTEL_SERVICE_VERSION""",
}
"""The variables of the guide, by the file in which it has them."""


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())[
        "services"
    ]
    return loaded


def example(name: str) -> dict[str, str]:
    lines = (COMPOSE / f".env.{name}.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_only_the_front_door_publishes_a_port(services: dict[str, Any]) -> None:
    assert {name for name, one in services.items() if "ports" in one} == {"envoy", "dev"}
    assert services["dev"]["ports"][0].startswith("127.0.0.1:")


def test_every_container_is_read_only_without_privileges(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == ("no" if name == "envoy-config" else "unless-stopped"), name
        assert "container_name" not in service, name
        assert ":latest" not in service["image"], name


@pytest.mark.parametrize("name", SETTINGS)
def test_a_container_gets_the_variables_of_its_service_alone(
    services: dict[str, Any], name: str
) -> None:
    known = {str(field.validation_alias) for field in SETTINGS[name].model_fields.values()}
    for variable in services[name]["environment"]:
        assert variable in known or variable.removesuffix("_FILE") in known, variable
    assert "env_file" not in services[name]


def test_the_front_door_traces_as_the_services_behind_it(services: dict[str, Any]) -> None:
    """It decides for all of them which requests are traced."""
    said = services["gateway"]["environment"]
    about = {name for name in said if name.startswith(("WEAVER_TELEMETRY_", "OTEL_"))}
    assert {"WEAVER_TELEMETRY_ENABLED", "WEAVER_TELEMETRY_SAMPLE_RATIO"} <= about
    for name in ("envoy-config", *PLACES):
        if name in SETTINGS:
            told = services[name]["environment"]
            assert {variable: told.get(variable) for variable in about} == {
                variable: said[variable] for variable in about
            }, name


def test_production_traces_a_tenth_of_its_requests() -> None:
    assert example("production")["WEAVER_TELEMETRY_SAMPLE_RATIO"] == "0.1"


def test_a_container_gets_the_secrets_of_its_service_alone(services: dict[str, Any]) -> None:
    for name in PLACES:
        mounted = [one for one in services[name]["volumes"] if "WEAVER_SECRETS" in one]
        assert mounted == [f"${{WEAVER_SECRETS:-./secrets}}/{name}:/etc/weaver:ro"]


def test_networks_are_the_arrows_of_the_design(services: dict[str, Any]) -> None:
    members: dict[str, set[str]] = {}
    for name, service in services.items():
        for network in service.get("networks", ()):
            members.setdefault(network, set()).add(name)
    assert members["edge"] == {"envoy", "envoy-config", "gateway", "ratelimit"}
    assert members["core"] == {"gateway", "ratelimit", "model", "audit"}
    assert not {"model", "audit", "envoy"} & members["store"]
    assert members["front"] == {"envoy", "dev"}
    assert "audit" not in members["outside"] | members["front"]
    networks = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["networks"]
    inside = {name for name, network in networks.items() if network.get("internal")}
    assert inside == {"edge", "core", "store", "telemetry"}


def test_the_log_has_an_address_that_stays_when_it_restarts(services: dict[str, Any]) -> None:
    place = services["audit"]["networks"]["core"]["ipv4_address"]
    assert place == "${WEAVER_CORE_NETWORK:-172.31.252}.10"
    for name in ("gateway", "ratelimit", "model"):
        assert services[name]["environment"]["WEAVER_AUDIT_ADDRESS"] == f"{place}:8003"


def test_services_wait_for_the_health_of_those_they_need(services: dict[str, Any]) -> None:
    needs = services["gateway"]["depends_on"]
    assert needs.keys() == {"ratelimit", "model", "audit"}
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            completed = needed == "envoy-config"
            wanted = "service_completed_successfully" if completed else "service_healthy"
            assert how == {"condition": wanted}, name
            assert completed or "healthcheck" in services[needed], needed


def test_the_store_is_a_master_two_replicas_and_three_sentinels(services: dict[str, Any]) -> None:
    assert set(STORES) <= services.keys()
    assert {f"redis-sentinel-{number}" for number in (1, 2, 3)} <= services.keys()
    text = (ROOT / "deploy" / "valkey" / "server.sh").read_text()
    assert "requirepass" in text
    assert "masterauth" in text


def test_production_has_three_gateways() -> None:
    assert example("production")["GATEWAY_REPLICAS"] == "3"


@pytest.mark.parametrize("name", GUIDE)
def test_an_example_has_every_variable_of_the_guide_or_its_file(name: str) -> None:
    variables = example(name)
    for variable in GUIDE[name].split():
        assert variable in variables or f"{variable}_FILE" in variables, variable


@pytest.mark.parametrize("name", ["staging", "production"])
def test_an_example_has_no_variable_that_nobody_takes_and_no_secret(name: str) -> None:
    text = (COMPOSE / "compose.yaml").read_text()
    interpolated = set(re.findall(r"\$\{([A-Z0-9_]+)", text)) | {"COMPOSE_PROFILES"}
    assert example(name).keys() <= interpolated
    for variable, value in example(name).items():
        secret = any(word in variable for word in ("KEY", "PASSWORD", "SECRET"))
        assert not secret or value.startswith(("/etc/weaver/", "./")), variable


def test_the_file_needs_no_variable_to_be_read() -> None:
    # `docker compose up dev` reads all of it, and development sets nothing.
    for use in re.findall(r"\$\{[^}]*\}", (COMPOSE / "compose.yaml").read_text()):
        assert ":-" in use or "-" in use, use


def test_examples_are_kept_and_what_is_made_of_them_is_not() -> None:
    lines = (ROOT / ".gitignore").read_text().splitlines()
    assert {".env*", "!.env*.example", "deploy/compose/secrets/"} <= set(lines)


@pytest.mark.parametrize("name", GUIDE)
def test_an_example_is_plain_since_not_every_reader_expands_variables(name: str) -> None:
    assert not any("$" in value or '"' in value for value in example(name).values())


def test_who_keeps_an_address_keeps_that_of_its_hardware_too(services: dict[str, Any]) -> None:
    """Neighbours remember it for up to a minute: under another one it could not be reached."""
    kept = [
        (network, place["ipv4_address"], place["mac_address"])
        for service in services.values()
        if isinstance(service.get("networks"), dict)
        for network, place in service["networks"].items()
        if "ipv4_address" in place
    ]
    assert len(kept) == 7
    assert len({place[2] for place in kept}) == len(kept)
    for _, address, hardware in kept:
        last = address.rpartition(".")[2]
        # An address that is local, and no group's.
        assert hardware.startswith("02:")
        assert int(hardware.rpartition(":")[2], 16) == int(last)
