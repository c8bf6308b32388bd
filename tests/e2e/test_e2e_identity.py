"""Who is let in, and to what: an issuer's tokens and an operator's roles, tried from outside.

Everything is tried twice, as plain HTTP through Envoy and with generated stubs on the gateway's own
port, because what is believed must not depend on the way in.
"""

import asyncio
import json
import re
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor_pool import Default

from services.gateway.access import ACCESS, Open
from services.gateway.authorization import Scope
from services.gateway.wiring import SERVICES
from tests.e2e.clients import channel, chat, http
from tests.e2e.conftest import RunningSuite
from tests.fakes.forgeries import ATTACKS
from tests.fakes.issuer import IssuerServer
from tests.fakes.tokens import ALL, EC_KEY, ED_KEY, OTHER_RSA_KEY, RSA_KEY, token
from weaver.gateway.v1 import admin_service_pb2 as admin_pb
from weaver.gateway.v1 import (
    admin_service_pb2_grpc,
    audit_reader_service_pb2_grpc,
    gateway_service_pb2_grpc,
)
from weaver.gateway.v1 import audit_reader_service_pb2 as reader_pb
from weaver.gateway.v1 import gateway_service_pb2 as pb

KEYS = {"rsa": RSA_KEY, "ec": EC_KEY, "ed": ED_KEY}
ROLES = """
version: 1
roles:
  chatter: {surfaces: [chat.completions, models], models: {allow: ["stub-*"], deny: ["*secret*"]}}
  nothing-to-use: {surfaces: ["*"], models: {allow: ["no-such-*"]}}
  team-auditor: {audit: {records: tenant, keys: own, texts: own}}
  watcher: {administration: read}
"""


class Guarded:
    """A suite with an issuer and roles of its own."""

    def __init__(self, suite: RunningSuite, issuer: IssuerServer, roles: Path) -> None:
        self.suite = suite
        self.issuer = issuer
        self.roles = roles

    def token(self, *roles: str, sub: str = "alice", tenant: str = "acme", **more: Any) -> str:
        more.setdefault("exp", int(time.time()) + 600)
        return token(
            sub=sub, tenant=tenant, realm_access={"roles": list(roles)}, roles=["admin"], **more
        )

    async def ask(self, path: str, *roles: str, **who: Any) -> Any:
        """Return the answer to a GET through Envoy."""
        async with http(self.suite, key=self.token(*roles, **who)) as client:
            return await client.get(path)

    async def say(self, content: str, *roles: str, **who: Any) -> Any:
        """Return the answer to a chat through Envoy."""
        async with http(self.suite, key=self.token(*roles, **who)) as client:
            return await client.post("/v1/chat/completions", json=chat(content))

    async def health(self) -> dict[str, Any]:
        async with http(self.suite) as client:
            return dict((await client.get("/health")).json()["dependencies"])


@pytest.fixture(scope="module")
def guarded(topology: str) -> Iterator[Guarded]:
    with tempfile.TemporaryDirectory() as scratch:
        roles = Path(scratch) / "roles.yaml"
        roles.write_text(ROLES)
        with IssuerServer(Path(scratch), dict(KEYS)) as issuer:
            suite = RunningSuite(
                topology,
                {
                    "WEAVER_AUTH_MODE": "api_key,jwt",
                    "WEAVER_JWT_JWKS_URL": issuer.url,
                    "WEAVER_JWT_JWKS_CA_FILE": str(issuer.authority),
                    "WEAVER_JWT_JWKS_REFRESH_SECONDS": "1",
                    "WEAVER_JWT_JWKS_MIN_INTERVAL_SECONDS": "0.2",
                    "WEAVER_JWT_ALGORITHMS": ",".join(ALL),
                    "WEAVER_JWT_ISSUER": "idp",
                    "WEAVER_JWT_ROLES_CLAIM": "realm_access.roles",
                    "WEAVER_ROLES_FILE": str(roles),
                    "WEAVER_AUDIT_CAPTURE": "redacted",
                    # One of the two, so that both are tried.
                    "WEAVER_AUDIT_PRINCIPAL": "plain" if topology == "up" else "pseudonym",
                    "WEAVER_RATELIMIT_RPS": "5000",
                    "WEAVER_RATELIMIT_BURST": "10000",
                },
            )
            yield Guarded(suite, issuer, roles)
            suite.stop()


@pytest.fixture
async def direct(guarded: Guarded) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the gateway itself, as internal services open it."""
    async with channel(guarded.suite, guarded.suite.addresses["gateway"]) as opened:
        yield opened


def bearer(credential: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {credential}"),)


async def code(call: Any) -> str:
    """Return the name of the status that a call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def who(opened: grpc.aio.Channel, credential: str) -> dict[str, Any]:
    stub = gateway_service_pb2_grpc.GatewayServiceStub(opened)
    answer = await stub.WhoAmI(pb.WhoAmIRequest(), metadata=bearer(credential), timeout=10)
    return dict(json.loads(answer.data))


@pytest.mark.parametrize("algorithm", ALL)
async def test_an_issuers_tokens_are_believed_whichever_way_they_come(
    guarded: Guarded, direct: grpc.aio.Channel, algorithm: str
) -> None:
    kid = {"ES256": "ec", "EdDSA": "ed"}.get(algorithm, "rsa")
    made = token(algorithm, header={"kid": kid}, realm_access={"roles": "watcher"}, tenant="acme")
    async with http(guarded.suite, key=made) as client:
        through = (await client.get("/v1/whoami")).json()
    assert (through["subject"], through["tenant"], through["roles"]) == (
        "alice",
        "acme",
        ["watcher"],
    )
    assert await who(direct, made) == through


async def test_no_forged_token_gets_in_whichever_way_it_comes(
    guarded: Guarded, direct: grpc.aio.Channel
) -> None:
    """Promise: each published trick is refused, with 401 and never with 500."""
    stub = gateway_service_pb2_grpc.GatewayServiceStub(direct)
    async with http(guarded.suite, key="none") as client:
        for name, (attack, _) in ATTACKS.items():
            if attack != attack.strip():
                continue  # No client sends it.
            headers = {"authorization": f"Bearer {attack}"}
            answer = await client.get("/v1/whoami", headers=headers)
            assert answer.status_code == 401, (name, answer.text)
            assert "not valid here" in answer.text, (name, answer.text)
            answer = await client.get("/v1/whoami", headers={"x-api-key": attack})
            assert answer.status_code == 401, name
            call = stub.WhoAmI(pb.WhoAmIRequest(), metadata=bearer(attack), timeout=10)
            assert await code(call) == "UNAUTHENTICATED", name
    assert not re.search(r"eyJ[\w-]{20}", guarded.suite.log.read_text()), "a token is in the log"


async def test_an_oversized_token_is_refused_and_the_next_is_not(guarded: Guarded) -> None:
    huge = guarded.token("watcher", sub="alice", filler="x" * 12_000)
    async with http(guarded.suite, key=huge) as client:
        assert (await client.get("/v1/whoami")).status_code == 401
    assert (await guarded.ask("/v1/whoami", "watcher")).status_code == 200


async def test_a_key_that_the_issuer_takes_back_lets_nobody_in_any_more(guarded: Guarded) -> None:
    """Promise: a key that is taken away is gone, with every token that it verified."""
    guarded.issuer.keys["new"] = OTHER_RSA_KEY
    made = token(key=OTHER_RSA_KEY, header={"kid": "new"}, exp=int(time.time()) + 600)
    async with http(guarded.suite, key=made) as client:

        async def status() -> int:
            return (await client.get("/v1/whoami")).status_code

        await until(status, 200)
        assert await status() == 200
        del guarded.issuer.keys["new"]
        await until(status, 401)


async def test_an_issuer_that_is_down_shows_and_locks_nobody_out(guarded: Guarded) -> None:
    """Promise: a dependency that is down is visible, and never turns into a wrong 401."""
    assert (await guarded.ask("/v1/whoami", "watcher")).status_code == 200
    guarded.issuer.broken = (500, b"oops")

    async def state() -> str:
        return str((await guarded.health()).get("gateway.jwt_keys.jwks"))

    try:
        await until(state, "down")
        assert (await guarded.ask("/v1/whoami", "watcher", sub="fresh")).status_code == 200
        unknown = token(key=OTHER_RSA_KEY, header={"kid": "rotated"})
        async with http(guarded.suite, key=unknown) as client:
            answer = await client.get("/v1/whoami")
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
    finally:
        guarded.issuer.broken = None
    await until(state, "ok")


async def test_keys_are_not_guessed_and_guesses_are_counted(guarded: Guarded) -> None:
    async with http(guarded.suite, http2=True, key="none") as client:

        async def guess(number: int) -> int:
            kind = (f"wv-guess-{number:020}", token(key=OTHER_RSA_KEY, sub=str(number)))[number % 2]
            headers = {"authorization": f"Bearer {kind}"}
            answer = await client.post("/v1/chat/completions", json=chat("x"), headers=headers)
            return int(answer.status_code)

        assert set(await asyncio.gather(*map(guess, range(400)))) == {401}

    async def refused() -> bool:
        page = (await guarded.ask("/v1/audit/records?type=refusal", "auditor")).json()
        counted = sum(
            stored["record"].get("count", 0)
            for stored in page["records"]
            if stored["record"]["reason"] == "INVALID_CREDENTIAL"
        )
        return bool(counted >= 400 and len(page["records"]) < 100)

    await until(refused, expected=True)


async def test_a_role_opens_its_surfaces_and_models_and_no_other(
    guarded: Guarded, direct: grpc.aio.Channel
) -> None:
    assert (await guarded.say("hi", "chatter")).status_code == 200
    listed = (await guarded.ask("/v1/models", "chatter")).json()["data"]
    assert [model["id"] for model in listed] == ["stub-model"]
    assert (await guarded.ask("/v1/models/stub-model", "chatter")).status_code == 200

    denied = await guarded.say("hi", "nothing-to-use")
    assert (denied.status_code, denied.json()["error"]["code"]) == (404, "model_not_found")
    assert (await guarded.ask("/v1/models", "nothing-to-use")).json()["data"] == []
    assert (await guarded.ask("/v1/models/stub-model", "nothing-to-use")).status_code == 404

    body = {"model": "stub-model", "max_tokens": 5, "messages": chat("hi")["messages"]}
    async with http(guarded.suite, key=guarded.token("chatter")) as client:
        answer = await client.post("/v1/messages", json=body)
        assert answer.status_code == 403
        assert answer.json()["error"]["type"] == "permission_error"
        assert (await client.get("/v1/audit/records")).status_code == 403
        assert (await client.get("/v1/admin/policies")).status_code == 403
    for roles in ((), ("unheard-of",), ("watcher",)):
        assert (await guarded.say("hi", *roles)).status_code == 403
        assert (await guarded.ask("/v1/models", *roles)).status_code == 403
    policies = (await guarded.ask("/v1/admin/policies", "watcher")).json()
    shown = policies["gateway"]["authorization"]["roles"]["chatter"]["models"]
    assert shown == {"allow": ["stub-*"], "deny": ["*secret*"]}
    told = (await guarded.ask("/v1/whoami", "chatter")).json()["permissions"]
    assert told["surfaces"] == ["chat.completions", "models"]

    stub = gateway_service_pb2_grpc.GatewayServiceStub(direct)
    admin = admin_service_pb2_grpc.AdminServiceStub(direct)
    mine = bearer(guarded.token("chatter"))
    request = pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, text="hi")])
    assert await code(stub.Generate(request, metadata=mine, timeout=10)) == "PERMISSION_DENIED"
    policies = admin.GetPolicies(admin_pb.GetPoliciesRequest(), metadata=mine, timeout=10)
    assert await code(policies) == "PERMISSION_DENIED"


def every_path() -> list[tuple[str, str, Scope | Open]]:
    """Return each HTTP route of the contracts: method, path, and what it needs."""
    found = []
    for service in SERVICES:
        for method in Default().FindServiceByName(service).methods:
            rule = method.GetOptions().Extensions[annotations_pb2.http]
            for binding in (rule, *rule.additional_bindings):
                verb = binding.WhichOneof("pattern")
                if verb is not None:
                    path = re.sub(r"\{[^}]*\}", "1", getattr(binding, verb))
                    found.append((verb.upper(), path, ACCESS[method.full_name]))
    return found


async def test_every_path_keeps_out_who_may_not(guarded: Guarded) -> None:
    """Promise: each path is enforced by the one page of who may call what."""
    paths = every_path()
    assert len(paths) > 25
    async with http(guarded.suite, key=guarded.token("unheard-of")) as client:
        for verb, path, needs in paths:
            body: dict[str, Any] = {} if verb in {"GET", "DELETE"} else {"json": {"model": "x"}}
            answer = await client.request(verb, path, **body)
            if isinstance(needs, Scope):
                assert answer.status_code == 403, (verb, path, answer.text)
            nobody = {"authorization": "Bearer guess"}
            answer = await client.request(verb, path, headers=nobody, **body)
            if needs is not Open.ANYONE:
                assert answer.status_code == 401, (verb, path, answer.text)


async def test_roles_are_followed_and_a_bad_file_keeps_them_and_shows(guarded: Guarded) -> None:
    async def status() -> int:
        return int((await guarded.say("hi", "late")).status_code)

    async def state() -> str:
        return str((await guarded.health()).get("gateway.roles"))

    assert await status() == 403
    late = "  late: {surfaces: [chat.completions], models: {allow: ['*']}}\n"
    guarded.roles.write_text(ROLES + late)
    await until(status, 200)
    guarded.roles.write_text(ROLES + "  late: {surfaces: [chat.completions], models: {allo")
    await until(state, "down")
    assert await status() == 200
    guarded.roles.write_text(ROLES)
    await until(status, 403)
    await until(state, "ok")

    async def recorded() -> bool:
        answer = await guarded.ask("/v1/audit/records?type=configuration_changed", "auditor")
        changes = [stored["record"]["attributes"] for stored in answer.json()["records"]]
        roles = [change for change in changes if change.get("setting") == "roles"]
        return len(roles) == 3 and sum("refused" in change for change in roles) == 1

    await until(recorded, expected=True)


async def test_tenants_are_kept_apart_in_the_log(
    guarded: Guarded, direct: grpc.aio.Channel
) -> None:
    """Promise: nobody reads a record, receipt, key or text of another tenant, or of another user.

    The same subject of another tenant, or of another issuer, is another caller.
    """
    answer = await guarded.say("what only acme knows", "user", sub="alice", tenant="acme")
    request_id = answer.headers["x-request-id"]
    index = int(answer.headers["x-weaver-record"].rpartition(" ")[2])
    paths = [
        f"/v1/audit/records/{index}",
        f"/v1/audit/records/{index}/receipt",
        f"/v1/audit/records/{index}/commitment_key",
        f"/v1/audit/records/{index}/texts",
    ]

    async def statuses(*roles: str, **who: Any) -> list[int]:
        return [(await guarded.ask(path, *roles, **who)).status_code for path in paths]

    assert await statuses("user") == [200] * 4
    assert await statuses("user", tenant="other") == [404] * 4
    assert await statuses("user", sub="bob") == [404] * 4
    assert await statuses("team-auditor", sub="ann", tenant="other") == [404] * 4
    assert await statuses("team-auditor", sub="ann") == [200, 200, 404, 404]
    assert await statuses("auditor", sub="ann", tenant="other") == [200] * 4

    async def found(query: str, *roles: str, **who: Any) -> int:
        answer = await guarded.ask(f"/v1/audit/records?{query}", *roles, **who)
        assert answer.status_code == 200, answer.text
        return len(answer.json()["records"])

    mine = f"request_id={request_id}"
    assert await found(mine, "user") == 2
    assert await found(mine, "user", tenant="other") == 0
    assert await found(mine, "user", sub="bob") == 0
    assert await found(f"{mine}&tenant=acme&subject=alice", "user", sub="bob") == 0
    assert await found(mine, "team-auditor", sub="ann") == 2
    assert await found(f"{mine}&subject=alice", "team-auditor", sub="ann") == 2
    assert await found(mine, "team-auditor", sub="ann", tenant="other") == 0
    assert await found(f"{mine}&subject=alice", "team-auditor", tenant="other") == 0
    shown = (await guarded.ask(f"/v1/audit/records?{mine}", "user")).json()["records"]
    name = shown[0]["record"]["principal"]["subject"]
    assert await found(f"{mine}&subject={name}", "team-auditor", sub="ann") == 2
    assert await found(f"{mine}&subject={name}", "team-auditor", tenant="other") == 0
    twin = await guarded.say("hi", "user", sub="alice", tenant="other")
    query = f"request_id={twin.headers['x-request-id']}"
    page = (await guarded.ask(f"/v1/audit/records?{query}", "auditor")).json()["records"]
    same = page[0]["record"]["principal"]["subject"] == name
    assert same is (guarded.suite.topology == "up"), "two tenants share a pseudonym"
    spying = await guarded.ask("/v1/audit/records?tenant=acme", "team-auditor", tenant="other")
    assert spying.status_code == 403

    stub = audit_reader_service_pb2_grpc.AuditReaderServiceStub(direct)
    tries: tuple[tuple[Any, Any], ...] = (
        (stub.GetRecord, reader_pb.GetRecordRequest(index=index)),
        (stub.GetReceipt, reader_pb.GetReceiptRequest(index=index)),
        (stub.GetCommitmentKey, reader_pb.GetCommitmentKeyRequest(index=index)),
        (stub.GetTexts, reader_pb.GetTextsRequest(index=index)),
    )
    for method, request in tries:
        theirs = bearer(guarded.token("user", tenant="other"))
        assert await code(method(request, metadata=theirs, timeout=10)) == "NOT_FOUND"


async def test_nobody_chooses_an_id_that_hides_a_call(
    guarded: Guarded, direct: grpc.aio.Channel
) -> None:
    """Promise: ids of requests and records are ours; what a client sends is a field at most."""
    chosen = {
        "x-request-id": "chosen",
        "x-weaver-record": "origin 0",
        "x-weaver-peer": "envoy",
        "x-weaver-client-address": "203.0.113.9",
        "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01",
    }
    ids = set()
    async with http(guarded.suite, key=guarded.token("user")) as client:
        for _ in range(2):
            answer = await client.post("/v1/chat/completions", json=chat("x"), headers=chosen)
            ids.add(answer.headers["x-request-id"])
    stub = gateway_service_pb2_grpc.GatewayServiceStub(direct)
    request = pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, text="hi")])
    metadata = (*bearer(guarded.token("user")), *chosen.items())
    for _ in range(2):
        ids.add((await stub.Generate(request, metadata=metadata, timeout=10)).request_id)
    assert len(ids) == 4
    assert "chosen" not in ids
    for request_id in ids:
        page = await guarded.ask(f"/v1/audit/records?request_id={request_id}", "auditor")
        records = [stored["record"] for stored in page.json()["records"]]
        assert [record["type"] for record in records] == ["outcome", "intent"]
        assert all(record["source_network"] == "127.0.0.0/24" for record in records)


async def test_a_token_cannot_be_somebody_with_an_api_key(guarded: Guarded) -> None:
    async with http(guarded.suite) as client:
        key = (await client.get("/v1/whoami")).json()
    assert key["issuer"] == "apikey"
    forged = guarded.token("user", sub=key["subject"], tenant=key["tenant"], iss="apikey")
    async with http(guarded.suite, key=forged) as client:
        assert (await client.get("/v1/whoami")).status_code == 401


async def until(look: Any, expected: object, seconds: float = 8.0) -> None:
    """Wait until something looks as expected."""
    end = time.monotonic() + seconds
    while (seen := await look()) != expected:
        assert time.monotonic() < end, f"still {seen!r}"
        await asyncio.sleep(0.05)
