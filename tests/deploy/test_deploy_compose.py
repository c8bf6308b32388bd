"""The Compose file in a real container engine, tried through Envoy: `make deploy-test`."""

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import openai
import pytest

from tests.deploy.engine import PLACE, PORT, ROOT, TARGETS, Engine
from tests.deploy.load import CALL, Load

URL = f"https://localhost:{PORT}"
SECRETS = PLACE / "secrets"
CA = SECRETS / "ca" / "ca.pem"
ANSWER = f"You said: {CALL['messages'][0]['content']}"
IMAGES = "localhost/weaver-ai"
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Build and start everything once, and end it."""
    engine = Engine()
    engine.build()
    engine.down()
    shutil.rmtree(SECRETS, ignore_errors=True)
    command = [sys.executable, "-m", "services.cli", "secrets", "create", str(SECRETS)]
    subprocess.run([*command, "--bits", "3072"], check=True, capture_output=True)
    key = SECRETS / "model" / "api-key"
    key.unlink()
    key.write_text("sk-trial\n")
    os.chown(key, 10001, 10001)
    engine.variables = variables()
    try:
        engine.up()
        for name in engine.names():
            if "envoy-config" not in name and "provider" not in name:
                engine.until_healthy(name)
        until_well()
    except BaseException:
        sys.stderr.write(f"The containers' logs are in {engine.keep_logs('start')}\n")
        engine.down()
        raise
    try:
        yield engine
    finally:
        engine.down()


def variables() -> dict[str, str]:
    """Return production's example, with this trial's images, secrets and provider."""
    lines = (ROOT / "deploy" / "compose" / ".env.production.example").read_text().splitlines()
    production = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {
        **production,
        "VERSION": "trial",
        "WEAVER_REGISTRY": "localhost",
        "ENVOY_IMAGE": "localhost/weaver-ai/envoy:trial",
        "VALKEY_IMAGE": "localhost/weaver-ai/valkey:trial",
        "WEAVER_SECRETS": str(SECRETS),
        "WEAVER_BIND": "127.0.0.1",
        "WEAVER_PORT": str(PORT),
        "WEAVER_MODEL_ENDPOINT": "http://provider:9000/v1",
        # As the end-to-end tests call it; the provider beside us takes any name.
        "WEAVER_MODEL_NAME": "stub-model",
        "WEAVER_AUTH_MODE": "jwt,api_key",
        "WEAVER_RATELIMIT_RPS": "100000",
        "WEAVER_RATELIMIT_BURST": "100000",
        "WEAVER_TELEMETRY_ENABLED": "false",
    }


def token(*roles: str) -> str:
    key = (SECRETS / "issuer" / "jwt-key.pem").read_bytes()
    claims = {"sub": "trial", "tenant": "trial", "roles": roles, "exp": int(time.time()) + 3600}
    return jwt.encode(claims, key, algorithm="RS256")


def client(*roles: str) -> httpx.Client:
    trust = ssl.create_default_context(cafile=str(CA))
    headers = {"authorization": f"Bearer {token(*(roles or ('user',)))}"}
    return httpx.Client(base_url=URL, verify=trust, headers=headers, timeout=40)


def until_well(within_s: float = 60) -> None:
    end, last = time.monotonic() + within_s, ""
    while time.monotonic() < end:
        try:
            with client() as asked:
                last = asked.get("/health").text
            if json.loads(last).get("status") == "ok":
                return
        except (httpx.HTTPError, ValueError) as error:
            last = str(error)
        time.sleep(0.3)
    pytest.fail(f"the suite is not well: {last}")


def test_every_image_runs_as_a_number_on_a_file_system_that_cannot_be_written(
    engine: Engine,
) -> None:
    for name in engine.names():
        if "envoy-config" in name:
            continue
        assert engine.execute(name, "id", "-u").stdout.strip() in {"10001", "999"}, name
        assert engine.execute(name, "touch", "/usr/here").returncode, name
        for compiler in ("gcc", "cc", "pip"):
            found = engine.execute(name, "sh", "-c", f"command -v {compiler}")
            assert found.returncode, (name, compiler)


def test_images_carry_labels_of_where_they_are_from(engine: Engine) -> None:
    for target in TARGETS:
        found = engine.inspect(f"localhost/weaver-ai/{target}:trial")
        labels = found["Labels"]
        assert isinstance(labels, dict)
        assert labels["org.opencontainers.image.title"] == f"weaver-ai/{target}"
        assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_only_envoy_publishes_a_port(engine: Engine) -> None:
    listed = engine.run("podman", "ps", "--format", "{{.Names}} {{.Ports}}").stdout.splitlines()
    published = {line.split()[0] for line in listed if "->" in line}
    assert {name for name in published if name.startswith("weavertrial_")} == {
        "weavertrial_envoy_1"
    }


def test_the_official_client_is_answered_whole_and_streamed(engine: Engine) -> None:
    trust = ssl.create_default_context(cafile=str(CA))
    question: Any = CALL["messages"]
    with openai.DefaultHttpxClient(verify=trust) as transport:
        vendor = openai.OpenAI(base_url=f"{URL}/v1", api_key=token("user"), http_client=transport)
        model: str = CALL["model"]
        whole = vendor.chat.completions.create(model=model, messages=question)
        assert whole.choices[0].message.content == ANSWER
        chunks: Any = vendor.chat.completions.create(model=model, messages=question, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == ANSWER


def test_the_end_to_end_tests_of_the_official_client_pass_through_it(engine: Engine) -> None:
    until_well()
    told = {"WEAVER_E2E_URL": URL, "WEAVER_E2E_CA": str(CA), "WEAVER_E2E_API_KEY": token("user")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    # All but the one that starts a suite with limits of its own.
    command += ["tests/e2e/test_e2e_openai_sdk.py", "-k", "not too_many_requests"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"[1-9]\d* passed", done.stdout), done.stdout


def test_a_managed_key_lets_in_until_it_is_revoked(engine: Engine) -> None:
    made = weaver(engine, "apikeys", "create", "--owner", "trial", "--json")
    key = json.loads(made)
    held = {"authorization": f"Bearer {key['key']}"}
    with client() as asked:
        for _ in range(6):  # Each gateway, one way or the other.
            assert asked.post("/v1/chat/completions", json=CALL, headers=held).status_code == 200
        weaver(engine, "apikeys", "disable", key["id"])
        end = time.monotonic() + 10
        refused = 0
        while refused < 6 and time.monotonic() < end:
            status = asked.post("/v1/chat/completions", json=CALL, headers=held).status_code
            refused = refused + 1 if status == 401 else 0
            time.sleep(0.05)
    assert refused == 6


def weaver(engine: Engine, *arguments: str) -> str:
    """Run the command line in a container of its own, as an operator of the deployment does."""
    command = ["podman", "run", "--rm", "--network", "host", "--read-only", "--tmpfs", "/tmp"]  # noqa: S108 - the container's
    command += ["--user", "0:0", "-e", f"WEAVER_API_KEY={token('admin')}"]
    command += ["-v", f"{CA}:/tls/ca.pem:ro", "-e", "WEAVER_TLS_DIR=/tls"]
    return engine.run(*command, f"{IMAGES}/cli:trial", *arguments, "--url", URL).stdout


def test_a_call_is_in_the_signed_log_with_a_receipt(engine: Engine) -> None:
    with client("user", "auditor") as asked:
        answer = asked.post("/v1/chat/completions", json=CALL)
        assert answer.status_code == 200, answer.text
        found = asked.get("/v1/audit/records", params={"request_id": answer.headers["request-id"]})
        assert found.status_code == 200, found.text
        index = answer.headers["x-weaver-record"].rpartition(" ")[2]
        time.sleep(1)
        assert asked.get(f"/v1/audit/records/{index}/receipt").status_code == 200
        checkpoint = asked.get("/v1/audit/checkpoint").text
    assert "audit.example.com/prod/audit-0" in checkpoint


def test_a_stranger_is_refused(engine: Engine) -> None:
    trust = ssl.create_default_context(cafile=str(CA))
    with httpx.Client(base_url=URL, verify=trust) as asked:
        assert asked.post("/v1/chat/completions", json=CALL).status_code == 401


@pytest.mark.parametrize("service", ["gateway", "ratelimit", "model", "audit"])
def test_a_rolling_restart_under_load_fails_no_call(engine: Engine, service: str) -> None:
    until_well()
    with Load(URL, CA, token("user"), callers=4) as load:
        time.sleep(1)
        for name in engine.names(service):
            engine.replace(name)
            time.sleep(2)
    assert not load.failed, load.bodies[:3]
    assert load.succeeded > 50


def test_five_gateways_share_the_calls_at_once(engine: Engine) -> None:
    until_well()
    with Load(URL, CA, token("user"), callers=4) as load:
        engine.up("--no-recreate", "--scale", "gateway=5", services=["gateway"])
        names = engine.names("gateway")
        assert len(names) == 5
        for name in names:
            engine.until_healthy(name)
        before = {name: served(engine, name) for name in names}
        time.sleep(8)
        after = {name: served(engine, name) for name in names}
    assert not load.failed, load.bodies[:3]
    assert all(after[name] > before[name] for name in names), (before, after)


def served(engine: Engine, name: str) -> float:
    """Return how many calls a gateway has recorded."""
    script = "import urllib.request as u;print(u.urlopen('http://127.0.0.1:9464/metrics').read().decode())"
    text = engine.execute(name, "python", "-c", script).stdout
    lines = [line for line in text.splitlines() if line.startswith("weaver_records_total")]
    return float(lines[0].split()[-1])


def test_the_store_fails_over_and_no_call_fails(engine: Engine) -> None:
    until_well()
    with Load(URL, CA, token("user"), callers=4) as load:
        engine.run("podman", "stop", "-t", "5", "weavertrial_redis_1")
        time.sleep(3)
        until_well(60)
        engine.run("podman", "start", "weavertrial_redis_1")
        engine.until_healthy("weavertrial_redis_1")
        time.sleep(2)
    assert not load.failed, load.bodies[:3]
    role = engine.execute(
        "weavertrial_redis_1",
        *("sh", "-c", "REDISCLI_AUTH=$(cat /run/secrets/redis/password) valkey-cli -e role"),
    )
    assert role.stdout.startswith("slave"), "what was the master comes back as a replica"


def test_the_suite_in_one_container_makes_all_it_needs(engine: Engine) -> None:
    name = "weavertrial_suite_1"
    command = ["podman", "run", "-d", "--name", name, "--read-only", "--tmpfs", "/tmp"]  # noqa: S108 - the container's
    command += ["--cap-drop", "all", "-v", "weavertrial_suite:/var/lib/weaver"]
    example = Path("deploy/compose/.env.dev.example")
    engine.run(*command, "--env-file", example, "localhost/weaver-ai/suite:trial")
    engine.until_healthy(name)
    assert engine.execute(name, "id", "-u").stdout.strip() == "10001"
