"""No secret comes out anywhere: each input gets a canary, and every output is searched for them.

Promise 5: no API key, token, provider key or raw text appears in logs, traces, metrics, audit
records, error messages, process arguments or files that others can read.
"""

import base64
import gzip
import json
import secrets
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import grpc
import httpx
import pytest

from services.cli import token
from services.gateway.apikeys import text
from tests.e2e.clients import channel, chat, http, trust
from tests.e2e.conftest import RunningSuite, wait_until
from tests.fakes.upstream import Script, Upstream
from weaver.gateway.v1 import gateway_service_pb2 as pb
from weaver.gateway.v1 import gateway_service_pb2_grpc

CHAT: Final = "/v1/chat/completions"
ADMIN: Final = "/v1/admin/api_keys"
JSON: Final = {"content-type": "application/json"}


def canary() -> str:
    """Return a text that nothing else holds."""
    return "canary" + secrets.token_hex(12)


class Sink:
    """Takes whatever is exported by OTLP over HTTP, as it comes."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                sink.bodies.append(self.path.encode() + str(self.headers).encode() + body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Canaries:
    """The secrets that are planted, each under the name of its place."""

    def __init__(self) -> None:
        self.provider_key = f"sk-{canary()}"
        self.static_key = f"static-{canary()}"
        self.redis_password = canary()
        self.prompt, self.answer, self.provider_error = canary(), canary(), canary()
        self.more: dict[str, str] = {}

    def new(self, place: str, value: str = "") -> str:
        """Plant another one."""
        self.more[place] = value or canary()
        return self.more[place]

    def everything(self) -> dict[str, str]:
        named = {name: value for name, value in vars(self).items() if isinstance(value, str)}
        return {**named, **self.more}

    def found_in(self, data: bytes) -> list[str]:
        """Return the places whose canary is in some data, plainly or in a usual disguise."""
        return [
            place
            for place, value in self.everything().items()
            if any(form in data for form in disguises(value))
        ]


def disguises(value: str) -> Iterator[bytes]:
    yield value.encode()
    yield quote(value, safe="").encode()
    yield value.encode().hex().encode()
    for offset in range(3):  # what base64 makes of it wherever it stands
        encoded = base64.b64encode(b"\0" * offset + value.encode())
        yield encoded[4 if offset else 0 : len(encoded) - 4]


@pytest.fixture
def sink() -> Iterator[Sink]:
    sink = Sink()
    yield sink
    sink.close()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture
def planted(
    topology: str, start_suite: Any, canaries: Canaries, upstream: Upstream, sink: Sink
) -> RunningSuite:
    running: RunningSuite = start_suite(
        topology,
        {
            "LOG_LEVEL": "DEBUG",
            "REDIS_PASSWORD": canaries.redis_password,
            "WEAVER_ALLOWED_API_KEYS": canaries.static_key,
            "WEAVER_API_KEY_ROLES": "admin",
            "WEAVER_MODEL_PROVIDER": "openai",
            "WEAVER_MODEL_NAME": "gpt-test",
            "WEAVER_MODEL_ENDPOINT": upstream.base_url,
            "WEAVER_MODEL_API_KEY": canaries.provider_key,
            "WEAVER_RATELIMIT_RPS": "500",
            "WEAVER_RATELIMIT_BURST": "500",
            "WEAVER_TELEMETRY_ENABLED": "true",
            "WEAVER_TELEMETRY_ENDPOINT": sink.url,
            "WEAVER_TELEMETRY_METRICS_SECONDS": "1",
        },
    )
    running.api_key = canaries.static_key
    return running


async def test_no_secret_comes_out_anywhere(
    planted: RunningSuite, canaries: Canaries, upstream: Upstream, sink: Sink
) -> None:
    """Keys, tokens, passwords and texts go in everywhere, and none is found in any output."""
    upstream.default = Script(text=f"an answer {canaries.answer}")
    shown = await good_calls(planted, canaries)
    shown += await bad_calls(planted, canaries)
    upstream.default = Script(status=400, body=json.dumps({"error": canaries.provider_error}))
    async with http(planted) as client:
        await client.post(CHAT, json=body(canaries, "gpt-test"))
    upstream.default = Script(cut_after=2, text=f"{canaries.answer} breaks off")
    async with http(planted) as client:
        await client.post(CHAT, json=body(canaries, "gpt-test", stream=True))
    wait_until(lambda: any(b"ChatCompletions" in one for one in sink.bodies), 20)
    wait_until(lambda: any(one.startswith(b"/v1/metrics") for one in sink.bodies), 20)

    outputs = {"what clients were told": b"\n".join(shown), **await served(planted)}
    outputs["exported telemetry"] = b"\n".join(sink.bodies)
    outputs["standard error"] = planted.log.read_bytes()
    outputs["the ready line"] = json.dumps(planted.ready).encode()
    outputs |= commands(planted, canaries)
    outputs |= files(planted) | processes(planted)
    leaks = {name: places for name, data in outputs.items() if (places := canaries.found_in(data))}
    assert leaks == {}
    assert b"ChatCompletions" in outputs["standard error"]
    # A search that finds nothing must be able to find something.
    assert canaries.found_in(b"x" + base64.b64encode(b"12" + canaries.prompt.encode()) + b"x")


def body(canaries: Canaries, model: str, **fields: Any) -> dict[str, Any]:
    return chat(f"a question {canaries.prompt}", model=model, **fields)


async def good_calls(suite: RunningSuite, canaries: Canaries) -> list[bytes]:
    """Make calls that are answered; what is an answer may hold what was asked."""
    shown = []
    issuer = (suite.state_dir / "keys" / "dev-jwt.pem").read_bytes()
    admin = canaries.new("a token", token.mint(issuer, "root", "default", ["admin"], 600))
    canaries.new("its signature", admin.rpartition(".")[2])
    async with http(suite, key=admin) as client:
        made = (await client.post(ADMIN, json={"owner": "o"})).json()
        again = (await client.post(f"{ADMIN}/{made['id']}/rotate", json={})).json()
        for place, key in (("a managed key", made["key"]), ("its successor", again["key"])):
            canaries.new(place, key.rpartition("_")[2])
        usage = f"/v1/admin/usage?subject={made['id']}"
        paths = (ADMIN, f"{ADMIN}/{made['id']}", "/v1/admin/policies", "/v1/audit/records", usage)
        shown += [(await client.get(path)).content for path in paths]
    for key in (suite.api_key, made["key"], again["key"], admin):
        async with http(suite, key=key) as client:
            for fields in ({}, {"stream": True}):
                answer = await client.post(CHAT, json=body(canaries, "gpt-test", **fields))
                assert answer.status_code == 200, answer.text
                assert canaries.answer in answer.text
                shown.append(str(answer.headers).encode())
            shown.append((await client.get("/v1/whoami")).content)
    headers = {"x-api-key": again["key"], "authorization": ""}
    async with http(suite) as client:
        question = body(canaries, "gpt-test", max_tokens=50)
        await client.post("/v1/messages", json=question, headers=headers)
    async with channel(suite, suite.addresses["gateway"]) as opened:
        stub: Any = gateway_service_pb2_grpc.GatewayServiceStub(opened)
        message = pb.Message(role=pb.ROLE_USER, text=f"a question {canaries.prompt}")
        request = pb.GenerateRequest(messages=[message])
        await stub.Generate(request, metadata=(("x-api-key", made["key"]),), timeout=10)
    return shown


async def bad_calls(suite: RunningSuite, canaries: Canaries) -> list[bytes]:
    """Make calls that are refused; none is told what it sent."""
    forged = text.make().text
    canaries.new("a forged key", forged.rpartition("_")[2])
    typo = canaries.new("a mistyped key", text.make().text[:-2] + "zz")
    jwt = canaries.new("a forged token", f"eyJhbGciOiJub25lIn0.eyJ{canary()}.{canary()}")
    headers: list[dict[str, str]] = [
        {"authorization": f"Bearer {forged}"},
        {"authorization": f"Bearer {typo}"},
        {"authorization": f"Bearer {jwt}"},
        {"authorization": f"Basic {canaries.new('basic credentials')}"},
        {"authorization": canaries.new("a scheme")},
        {"authorization": f"Bearer {canaries.new('one of two')}", "x-api-key": suite.api_key},
        {"x-api-key": canaries.new("an unknown key")},
        {"x-api-key": "é".encode().decode("latin-1") + canaries.new("a bad character")},
        {"x-api-key": canaries.new("a long key") * 400},
        {"cookie": f"session={canaries.new('a cookie')}"},
        {"x-weaver-principal": canaries.new("an asserted principal")},
        {"proxy-authorization": f"Basic {canaries.new('credentials of a proxy')}"},
    ]
    shown = []
    plain = httpx.AsyncClient(base_url=suite.url, verify=trust(suite), timeout=30)
    async with plain as client:
        for sent in headers:
            raw = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
            answer = await client.post(CHAT, json=body(canaries, "gpt-test"), headers=raw)
            assert answer.is_error, sent
            shown.append(answer.content + str(answer.headers).encode())
        asked = await client.get("/v1/models", params={"api_key": canaries.new("a query")})
        shown.append(asked.content)
    async with http(suite) as client:
        broken = f'{{"model": "gpt-test", "messages": "{canaries.new("broken JSON")}'.encode()
        wrong = {"model": "gpt-test", "messages": canaries.new("a wrong type")}
        orders: list[tuple[str, bytes]] = [
            (CHAT, broken),
            (CHAT, json.dumps(wrong).encode()),
            (ADMIN, json.dumps({"owner": f"me {forged}"}).encode()),
        ]
        # Who takes a key for its id puts it into a path.
        misplaced = canaries.new("a key in a path", text.make().text)
        orders.append((f"{ADMIN}/{misplaced}/disable", b"{}"))
        for path, order in orders:
            answer = await client.post(path, content=order, headers=JSON)
            assert answer.status_code == 400, answer.text
            shown.append(answer.content)
    async with channel(suite, suite.addresses["gateway"]) as opened:
        stub: Any = gateway_service_pb2_grpc.GatewayServiceStub(opened)
        metadata = (("authorization", f"Bearer {canaries.new('metadata')}"),)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.WhoAmI(pb.WhoAmIRequest(), metadata=metadata, timeout=10)
        shown.append(repr(caught.value).encode())
    return shown


async def served(suite: RunningSuite) -> dict[str, bytes]:
    """Return what anybody on this machine can read over HTTP."""
    found = {}
    async with httpx.AsyncClient(verify=trust(suite), timeout=30) as client:
        for name, address in suite.metrics.items():
            found[f"metrics of {name}"] = (await client.get(f"http://{address}/metrics")).content
        admin = suite.addresses["envoy.admin"]
        for path in ("stats/prometheus", "config_dump", "clusters", "certs", "server_info"):
            found[f"envoy {path}"] = (await client.get(f"http://{admin}/{path}")).content
        found["health"] = (await client.get(f"{suite.url}/health")).content
    return found


def commands(suite: RunningSuite, canaries: Canaries) -> dict[str, bytes]:
    """Return what the command line says, with good and bad credentials."""
    found = {}
    suite.environment["WEAVER_API_KEY"] = canaries.new("a credential of the command line")
    every: tuple[tuple[str, ...], ...] = (
        ("apikeys", "list"),
        ("chat", "hello"),
        ("audit", "list", "--limit", "900"),
    )
    for arguments in every:
        done = suite.weaver(*arguments)
        found[" ".join(arguments)] = (done.stdout + done.stderr).encode()
    suite.environment["WEAVER_API_KEY"] = suite.api_key
    for arguments in (("apikeys", "list", "--json"), ("apikeys", "list", "--store")):
        done = suite.weaver(*arguments)
        assert done.returncode == 0, done.stderr
        found[" ".join(arguments)] = (done.stdout + done.stderr).encode()
    return found


def files(suite: RunningSuite) -> dict[str, bytes]:
    """Return every file of the state directory, but what has to hold a password for its reader."""
    found = {}
    for path in sorted(suite.state_dir.rglob("*")):
        if not stat.S_ISREG(path.lstat().st_mode):
            continue
        if path.name == "valkey.conf":
            assert path.stat().st_mode & 0o077 == 0
            continue
        found[f"file {path.relative_to(suite.state_dir)}"] = path.read_bytes()
    assert any("valkey" in name and data for name, data in found.items())
    return found


def processes(suite: RunningSuite) -> dict[str, bytes]:
    """Return the arguments of all processes, and the environments of those that are not ours."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            found[f"arguments of {directory.name}"] = (directory / "cmdline").read_bytes()
        except OSError:
            continue
    for name in ("envoy", "valkey"):
        environ = Path(f"/proc/{suite.pids[name]}/environ")
        found[f"environment of {name}"] = environ.read_bytes()
    return found
