"""Managed API keys through the front door: real SDKs, a second gateway, a store that hangs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anthropic
import grpc
import httpx
import openai
import pytest

from services.cli import token
from services.gateway.apikeys import text
from tests.e2e.clients import channel, chat, http, sdk, trust
from tests.e2e.conftest import listen_on_free_ports, wait_until
from weaver.gateway.v1 import gateway_service_pb2 as pb
from weaver.gateway.v1 import gateway_service_pb2_grpc

CHAT = "/v1/chat/completions"
HELLO: Any = [{"role": "user", "content": "Hello!"}]


def apikeys(suite: Any, *arguments: str, status: int = 0) -> dict[str, Any]:
    done = suite.weaver("apikeys", *arguments, "--json", timeout=30)
    assert done.returncode == status, done.stdout + done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return loaded


def create(suite: Any, *arguments: str) -> dict[str, Any]:
    return apikeys(suite, "create", "--owner", "team search", *arguments)


def claude(suite: Any, key: str) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(
        base_url=suite.url,
        api_key=key,
        max_retries=0,
        http_client=anthropic.DefaultAsyncHttpxClient(verify=trust(suite)),
    )


def administrator(suite: Any) -> httpx.AsyncClient:
    """Return a client with the development issuer's token of an administrator."""
    issuer = (suite.state_dir / "keys" / "dev-jwt.pem").read_bytes()
    return http(suite, key=token.mint(issuer, "root", "default", ["admin"], 300))


async def made_by_http(suite: Any, **order: Any) -> dict[str, Any]:
    async with administrator(suite) as client:
        answer = await client.post("/v1/admin/api_keys", json={"owner": "team search", **order})
        assert answer.status_code == 200, answer.text
        loaded: dict[str, Any] = answer.json()
        return loaded


async def changed_by_http(suite: Any, id_: str, verb: str, **order: Any) -> dict[str, Any]:
    async with administrator(suite) as client:
        answer = await client.post(f"/v1/admin/api_keys/{id_}/{verb}", json=order)
        assert answer.status_code == 200, answer.text
        loaded: dict[str, Any] = answer.json()
        return loaded


async def listing(suite: Any, key: str) -> None:
    async with sdk(suite, api_key=key) as client:
        await client.models.list()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def test_a_managed_key_serves_every_kind_of_client_until_it_is_disabled(
    suite: Any, stack: AsyncExitStack
) -> None:
    """OpenAI's SDK by bearer, Anthropic's by x-api-key, stubs by metadata."""
    made = await made_by_http(suite, models=["stub-*"])
    gpt = await stack.enter_async_context(sdk(suite, api_key=made["key"]))
    messages = await stack.enter_async_context(claude(suite, made["key"]))
    answer = await gpt.chat.completions.create(model="stub-model", messages=HELLO)
    assert answer.choices[0].message.content
    message = await messages.messages.create(model="stub-model", max_tokens=50, messages=HELLO)
    assert message.content
    metadata = (("authorization", f"Bearer {made['key']}"),)
    async with channel(suite, suite.addresses["gateway"]) as opened:
        stub: Any = gateway_service_pb2_grpc.GatewayServiceStub(opened)
        request = pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, text="hi")])
        assert (await stub.Generate(request, metadata=metadata, timeout=10)).text
        async with http(suite, key=made["key"]) as client:
            who = (await client.get("/v1/whoami")).json()
            assert (who["subject"], who["api_key"]["models"]) == (made["id"], ["stub-*"])
            assert made["key"] not in json.dumps(who)
        changed = await changed_by_http(suite, made["id"], "disable")
        assert (changed["state"], changed["durability"]["on_disk"]) == ("disabled", True)
        with pytest.raises(openai.AuthenticationError, match="disabled"):
            await gpt.chat.completions.create(model="stub-model", messages=HELLO)
        with pytest.raises(anthropic.AuthenticationError, match="disabled"):
            await messages.messages.create(model="stub-model", max_tokens=50, messages=HELLO)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Generate(request, metadata=metadata, timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    await changed_by_http(suite, made["id"], "enable")
    assert await gpt.chat.completions.create(model="stub-model", messages=HELLO)


async def test_a_key_s_models_and_limits_hold_for_it_alone(
    suite: Any, stack: AsyncExitStack
) -> None:
    limits = {"requests_per_second": 0.01, "burst": 2}
    made = await made_by_http(suite, models=["gpt-*"], limits=limits)
    gpt = await stack.enter_async_context(sdk(suite, api_key=made["key"]))
    assert [model.id async for model in await gpt.models.list()] == []
    with pytest.raises(openai.NotFoundError, match="may not use it"):
        await gpt.chat.completions.create(model="stub-model", messages=HELLO)
    edit = {"update_mask": "models,timeToLiveSeconds", "time_to_live_seconds": 60}
    assert (await changed_by_http(suite, made["id"], "update", **edit))["expire_time"]
    assert [model.id async for model in await gpt.models.list()] == ["stub-model"]
    for _ in range(2):
        await gpt.chat.completions.create(model="stub-model", messages=HELLO)
    with pytest.raises(openai.RateLimitError, match="2 requests"):
        await gpt.chat.completions.create(model="stub-model", messages=HELLO)
    other = await stack.enter_async_context(sdk(suite))
    assert await other.chat.completions.create(model="stub-model", messages=HELLO)


async def test_a_typo_is_told_from_a_forgery(suite: Any) -> None:
    key = (await made_by_http(suite))["key"]
    for bad, said in ((key[:-1], "53 characters"), (key[:-1] + "_", "characters that a key")):
        with pytest.raises(openai.AuthenticationError, match=said):
            await listing(suite, bad)
    with pytest.raises(openai.AuthenticationError, match="not valid here"):
        await listing(suite, "wv-nobody-s")


async def test_rotation_overlaps_and_a_leak_does_not(suite: Any, tmp_path: Path) -> None:
    made = await made_by_http(suite)
    target = tmp_path / "new.key"
    new = apikeys(suite, "rotate", made["id"], "--overlap", "1h", "--to", str(target))
    assert "key" not in new
    assert target.stat().st_mode & 0o777 == 0o600
    keys = [made["key"], target.read_text().strip()]
    for key in keys:
        await listing(suite, key)
    last = (await changed_by_http(suite, made["id"], "rotate", without_overlap=True))["key"]
    for key in keys:
        with pytest.raises(openai.AuthenticationError):
            await listing(suite, key)
    await listing(suite, last)
    done = suite.weaver("apikeys", "rotate", made["id"], "--to", str(target))
    assert done.returncode == 2
    assert "cannot make" in done.stderr


async def test_every_change_is_a_record_and_no_record_holds_a_key(suite: Any) -> None:
    made = create(suite, "--model", "stub-*", "--rps", "3", "--expires", "1d")
    await changed_by_http(suite, made["id"], "disable")
    outside = apikeys(suite, "enable", made["id"], "--store")
    assert "@" in outside["changed_by"]

    def records(kind: str) -> list[dict[str, str]]:
        listed = suite.weaver("audit", "list", "--type", kind, "--limit", "50", "--json").stdout
        found = [json.loads(line)["record"].get("attributes", {}) for line in listed.splitlines()]
        return [one for one in found if one.get("key") == made["id"]]

    wait_until(lambda: len(records("configuration_changed")) == 1, 10)
    assert [one["action"] for one in records("administration")] == [
        "api_key_disable",
        "api_key_create",
    ]
    assert records("configuration_changed")[0]["by"] == outside["changed_by"]
    everything = suite.weaver("audit", "list", "--limit", "1000", "--json").stdout
    assert made["key"].rpartition("_")[2] not in everything


async def test_who_is_no_administrator_manages_no_keys(suite: Any) -> None:
    made = await made_by_http(suite)
    paths = [("GET", ""), ("POST", ""), ("GET", f"/{made['id']}")]
    paths += [("POST", f"/{made['id']}/{verb}") for verb in ("disable", "rotate", "update")]
    for key in (made["key"], suite.api_key):
        async with http(suite, key=key) as client:
            for method, path in paths:
                content = b"{}" if method == "POST" else None
                answer = await client.request(method, f"/v1/admin/api_keys{path}", content=content)
                assert answer.status_code == 403, (method, path)


async def test_a_field_that_is_mistyped_makes_no_key(suite: Any) -> None:
    key = suite.weaver("token", "--role", "admin", "--subject", "boss").stdout.strip()
    async with http(suite, key=key) as client:
        order = {"owner": "x", "roles": ["user"], "limit": {"requests_per_second": 1}}
        answer = await client.post("/v1/admin/api_keys?limits.burst=3", json=order)
        erased = await client.post("/v1/admin/audit/erase", json={"index": [1]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")
    assert (erased.status_code, erased.json()["error"]["param"]) == (400, "index")


def test_a_key_in_the_place_of_its_id_is_refused_with_advice(suite: Any) -> None:
    made = create(suite)
    done = suite.weaver("apikeys", "show", made["key"])
    assert done.returncode == 2
    assert f"rotate {made['id']} --overlap none" in done.stderr
    assert made["id"] in suite.weaver("apikeys", "list").stdout


@pytest.fixture
def second_gateway(suite: Any) -> Iterator[str]:
    """The address of another gateway of the same suite, in a process of its own."""
    ports = listen_on_free_ports()
    environment = {
        **suite.environment,
        **{f"WEAVER_{name.upper()}_ADDRESS": suite.addresses[name] for name in NEIGHBOURS},
        "WEAVER_GATEWAY_LISTEN": ports["WEAVER_GATEWAY_LISTEN"],
        "WEAVER_GATEWAY_METRICS_LISTEN": "",
        "WEAVER_GATEWAY_INSTANCE": "gateway-second",
        "WEAVER_ALLOWED_API_KEYS": "of-the-second-gateway",
        "REDIS_UNIX_SOCKET": str(suite.state_dir / "run" / "valkey.sock"),
    }
    log = suite.state_dir / "second.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "services.gateway"],
            env=environment,
            stdout=output,
            stderr=output,
        )
    yield environment["WEAVER_GATEWAY_LISTEN"]
    process.terminate()
    process.wait(20)


NEIGHBOURS = ("ratelimit", "model", "audit")


async def test_revocation_reaches_every_gateway_within_a_second(
    suite: Any, second_gateway: str
) -> None:
    """A key that is disabled at one gateway is refused at another, measured from the answer."""
    made = await made_by_http(suite)
    metadata = (("x-api-key", made["key"]),)
    async with channel(suite, second_gateway) as opened:
        stub: Any = gateway_service_pb2_grpc.GatewayServiceStub(opened)

        async def accepted() -> bool:
            try:
                await stub.WhoAmI(
                    pb.WhoAmIRequest(), metadata=metadata, timeout=10, wait_for_ready=True
                )
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                    raise
                return False
            return True

        assert await accepted()
        await changed_by_http(suite, made["id"], "disable")
        answered = time.monotonic()
        while await accepted():
            assert time.monotonic() - answered < 1.0
        assert time.monotonic() - answered < 1.0


@pytest.mark.parametrize("suite_env", [{"WEAVER_API_KEY_STALE_SECONDS": "6"}])
async def test_without_the_store_known_keys_go_on_and_others_are_503_and_never_401(
    own_suite: Any,
) -> None:
    """A dependency that is down never turns into a wrong 401."""
    known, unknown = (await made_by_http(own_suite))["key"], text.make().text
    async with http(own_suite, key=known) as client:
        assert (await client.get("/v1/whoami")).status_code == 200
        os.kill(own_suite.pids["valkey"], signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            assert (await client.post(CHAT, json=chat())).status_code == 200
            other = {"authorization": f"Bearer {unknown}"}
            answer = await client.post(CHAT, json=chat(), headers=other)
            assert answer.status_code == 503, (answer.text, answer.headers)
            assert answer.headers["retry-after"] == "1"
            assert answer.json()["error"]["code"] == "identity_unavailable"
            typo = {"authorization": f"Bearer {unknown[:-1]}"}
            assert (await client.post(CHAT, json=chat(), headers=typo)).status_code == 401
            while (await client.get("/health")).json()["status"] != "degraded":
                assert time.monotonic() - stopped < 5
            while (await client.get("/v1/whoami")).status_code == 200:
                assert time.monotonic() - stopped < 15
            assert time.monotonic() - stopped > 5
            assert (await client.get("/v1/whoami")).status_code == 503
        finally:
            os.kill(own_suite.pids["valkey"], signal.SIGCONT)
        back = time.monotonic()
        while (await client.get("/v1/whoami")).status_code != 200:
            assert time.monotonic() - back < 10
        assert (await client.get("/v1/whoami", headers=other)).status_code == 401
