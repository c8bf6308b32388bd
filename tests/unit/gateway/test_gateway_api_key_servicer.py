"""Keys as administrators manage them: checked by field, recorded before it is done, shown once."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from prometheus_client import CollectorRegistry

from services.common.errors import InvalidArgument, Unavailable, WeaverError
from services.common.health import Health
from services.gateway.admin_servicer import AdminServicer
from services.gateway.apikeys.administration import Administration
from services.gateway.apikeys.cache import KeyCache
from services.gateway.apikeys.follower import Follower
from services.gateway.apikeys.key import digest_of
from services.gateway.apikeys.metrics import KeyReports
from services.gateway.apikeys.seen import Seen
from services.gateway.apikeys.wiring import ManagedKeys
from services.gateway.events import EventType
from tests.fakes.gateway import Suite
from tests.fakes.keystore import MemoryKeys
from weaver.gateway.v1 import admin_service_pb2 as pb


class Context:
    """What a servicer uses of gRPC's."""

    def __init__(self) -> None:
        self.trailing: dict[str, str] = {}

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", "Bearer a-key"),)

    def peer(self) -> str:
        return "ipv4:192.0.2.1:1"

    def auth_context(self) -> dict[str, Any]:
        return {}

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.trailing = dict(metadata)

    async def send_initial_metadata(self, metadata: Any) -> None:
        pass


class Admin:
    """An administration with its store and its log."""

    def __init__(self, roles: tuple[str, ...] = ("admin",)) -> None:
        self.suite = Suite(roles=roles)
        self.store = MemoryKeys()
        clock, seen = self.suite.clock, Seen(100)
        self.registry = CollectorRegistry()
        reports = KeyReports(self.registry, Health(), lambda _: None)
        self.cache = KeyCache(self.store, seen, reports, clock)
        follower = Follower(self.store, seen, self.cache, reports, clock, stale_after_s=60)
        administration = Administration(self.store, seen, follower.give_back, clock)
        limits: Any = None
        self.servicer = AdminServicer(
            self.suite.pipeline,
            limits,
            dict,
            default_tenant="home",
            api_key_roles=("user",),
            keys=ManagedKeys(self.cache, administration, reports),
            known_roles=lambda: ("user", "admin"),
        )

    async def ask(self, method: str, request: Any) -> dict[str, Any]:
        answer = await getattr(self.servicer, method)(request, Context())
        loaded: dict[str, Any] = json.loads(answer.data)
        return loaded

    async def create(self, **fields: Any) -> dict[str, Any]:
        return await self.ask("CreateApiKey", pb.CreateApiKeyRequest(**{"owner": "o", **fields}))

    def orders(self) -> list[dict[str, str]]:
        events = self.suite.log.events
        return [one.attributes for one in events if one.type is EventType.ADMINISTRATION]


async def test_a_key_is_made_with_what_was_asked_and_shown_once() -> None:
    admin = Admin()
    made = await admin.create(
        roles=["user", "admin"],
        models=["gpt-*"],
        time_to_live_seconds=60,
        limits=pb.ApiKeyLimits(requests_per_second=2, tokens_per_day=5),
    )
    assert made["tenant"] == "home"
    assert made["roles"] == ["admin", "user"]
    assert made["limits"] == {"requests_per_second": 2.0, "tokens_per_day": 5}
    assert (made["state"], made["durability"]["safe"]) == ("active", True)
    who = await admin.cache.find(made["key"], digest_of(made["key"]))
    assert who.subject == made["id"]
    shown = await admin.ask("GetApiKey", pb.GetApiKeyRequest(id=made["id"]))
    listed = await admin.ask("ListApiKeys", pb.ListApiKeysRequest())
    assert "key" not in shown
    assert listed["api_keys"] == [shown]
    assert made["key"] not in json.dumps([shown, listed])


async def test_a_change_is_recorded_with_the_id_and_never_the_key() -> None:
    admin = Admin()
    made = await admin.create(models=["gpt-*"])
    ids = pb.DisableApiKeyRequest(id=made["id"])
    await admin.ask("DisableApiKey", ids)
    await admin.ask("EnableApiKey", pb.EnableApiKeyRequest(id=made["id"]))
    new = await admin.ask("RotateApiKey", pb.RotateApiKeyRequest(id=made["id"]))
    assert [(order["action"], order["key"]) for order in admin.orders()] == [
        ("api_key_create", made["id"]),
        ("api_key_disable", made["id"]),
        ("api_key_enable", made["id"]),
        ("api_key_rotate", made["id"]),
    ]
    assert admin.orders()[0]["models"] == "gpt-*"
    assert admin.orders()[3]["overlap_seconds"] == "86400"
    every = repr(admin.suite.log.events)
    for key in (made["key"], new["key"]):
        assert key.rpartition("_")[2] not in every


async def test_nothing_changes_while_the_order_is_not_durable() -> None:
    admin = Admin()
    made = await admin.create()
    admin.suite.log.refuses = lambda event: (
        Unavailable("away") if event.type is EventType.ADMINISTRATION else None
    )
    with pytest.raises(Unavailable):
        await admin.ask("DisableApiKey", pb.DisableApiKeyRequest(id=made["id"]))
    admin.suite.log.refuses = lambda _: None
    assert not admin.store.keys[made["id"]].disabled


async def test_rotation_keeps_the_id_and_accepts_both_for_the_overlap() -> None:
    admin = Admin()
    made = await admin.create()
    request = pb.RotateApiKeyRequest(id=made["id"], overlap_seconds=60)
    new = await admin.ask("RotateApiKey", request)
    assert new["id"] == made["id"]
    assert new["key"] != made["key"]
    assert [secret["state"] for secret in new["secrets"]] == ["active", "active"]
    for key in (made["key"], new["key"]):
        assert (await admin.cache.find(key, digest_of(key))).subject == made["id"]
    leak = await admin.ask(
        "RotateApiKey", pb.RotateApiKeyRequest(id=made["id"], without_overlap=True)
    )
    assert len(leak["secrets"]) == 1
    with pytest.raises(WeaverError):
        await admin.cache.find(new["key"], digest_of(new["key"]))


async def test_an_update_changes_the_named_fields_and_no_other() -> None:
    admin = Admin()
    made = await admin.create(models=["gpt-*"], time_to_live_seconds=60)
    request = pb.UpdateApiKeyRequest(
        id=made["id"],
        owner="somebody",
        roles=["admin"],
        update_mask=FieldMask(paths=["owner", "time_to_live_seconds"]),
    )
    now = await admin.ask("UpdateApiKey", request)
    assert (now["owner"], now["roles"], now["models"]) == ("somebody", ["user"], ["gpt-*"])
    assert now["expire_time"] is None


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("CreateApiKey", pb.CreateApiKeyRequest(), "owner"),
        ("CreateApiKey", pb.CreateApiKeyRequest(owner="o\n"), "owner"),
        ("CreateApiKey", pb.CreateApiKeyRequest(owner="o", tenant="t" * 257), "tenant"),
        ("CreateApiKey", pb.CreateApiKeyRequest(owner="o", roles=["root"]), "roles"),
        ("CreateApiKey", pb.CreateApiKeyRequest(owner="o", models=["[a-z]"]), "models"),
        (
            "CreateApiKey",
            pb.CreateApiKeyRequest(owner="o", time_to_live_seconds=-1),
            "time_to_live_seconds",
        ),
        (
            "CreateApiKey",
            pb.CreateApiKeyRequest(owner="o", limits=pb.ApiKeyLimits(burst=3)),
            "limits.burst",
        ),
        (
            "CreateApiKey",
            pb.CreateApiKeyRequest(
                owner="o", limits=pb.ApiKeyLimits(requests_per_second=float("nan"))
            ),
            "limits.requests_per_second",
        ),
        ("GetApiKey", pb.GetApiKeyRequest(id="wv_1"), "id"),
        ("DisableApiKey", pb.DisableApiKeyRequest(id=""), "id"),
        ("RotateApiKey", pb.RotateApiKeyRequest(id="key_" + "a" * 12, overlap_seconds=-1), "over"),
        (
            "RotateApiKey",
            pb.RotateApiKeyRequest(id="key_" + "a" * 12, overlap_seconds=1, without_overlap=True),
            "without_overlap",
        ),
        ("UpdateApiKey", pb.UpdateApiKeyRequest(id="key_" + "a" * 12), "update_mask"),
        ("ListApiKeys", pb.ListApiKeysRequest(state="lost"), "state"),
        ("ListApiKeys", pb.ListApiKeysRequest(page_size=1001), "page_size"),
        ("ListApiKeys", pb.ListApiKeysRequest(page_token="x"), "page_token"),
    ],
)
async def test_a_bad_order_names_its_field_and_is_a_refusal(
    method: str, request_: Any, field: str
) -> None:
    admin = Admin()
    with pytest.raises(InvalidArgument, match=field):
        await admin.ask(method, request_)
    assert admin.suite.log.events == []
    assert len(admin.suite.refused()) == 1


@pytest.mark.parametrize("roles", [("user",), ("auditor",), ()])
@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("CreateApiKey", lambda: pb.CreateApiKeyRequest(owner="o")),
        ("ListApiKeys", pb.ListApiKeysRequest),
        ("GetApiKey", pb.GetApiKeyRequest),
        ("UpdateApiKey", pb.UpdateApiKeyRequest),
        ("DisableApiKey", pb.DisableApiKeyRequest),
        ("EnableApiKey", pb.EnableApiKeyRequest),
        ("RotateApiKey", pb.RotateApiKeyRequest),
    ],
)
async def test_who_is_no_administrator_is_refused(
    roles: tuple[str, ...], method: str, request_: Callable[[], Any]
) -> None:
    admin = Admin(roles)
    with pytest.raises(WeaverError) as caught:
        await admin.ask(method, request_())
    assert caught.value.reason == "PERMISSION_DENIED"
    assert admin.store.keys == {}


async def test_without_a_store_keys_are_not_managed_and_it_says_what_to_set() -> None:
    admin = Admin()
    admin.servicer._keys = None
    with pytest.raises(WeaverError, match="set REDIS_HOST or WEAVER_API_KEY_STORE"):
        await admin.create()


async def test_metrics_have_no_label_that_a_caller_chooses() -> None:
    admin = Admin()
    made = await admin.create()
    with pytest.raises(WeaverError):
        await admin.cache.find(made["key"][:-1] + "!", b"d" * 32)
    labels = {
        value
        for family in admin.registry.collect()
        for sample in family.samples
        for value in sample.labels.values()
    }
    assert labels <= {
        "found", "unknown", "disabled", "expired", "rotated", "mistyped", "refused_again",
        "unavailable", "create", "at_hand", "remembered",
    }  # fmt: skip
