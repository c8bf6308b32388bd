"""Pseudonyms, keys for owners, forgetting and erasing, over the service as it is wired."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.audit.keys.signatures import load_keys
from services.audit.layout import Layout
from services.audit.verification.verifier import verify
from services.audit.wal import WriteAheadLog
from services.common.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable
from services.common.settings import SettingsError
from services.gateway.capture import seal_text
from tests.fakes.auditlog import RunningLog, intent, outcome, record, running_log
from weaver.audit.v1 import audit_service_pb2 as pb
from weaver.audit.v1 import record_pb2
from weaver.common.v1 import identity_pb2

ORDER = pb.Order(
    administrator=identity_pb2.Principal(tenant="acme", issuer="apikey", subject="the-admin"),
    request_id="order-1",
    note="asked by letter",
)


def named(subject: str, tenant: str = "acme", issuer: str = "apikey") -> identity_pb2.Principal:
    return identity_pb2.Principal(tenant=tenant, issuer=issuer, subject=subject)


def of(sequence: int, subject: str, **fields: Any) -> record_pb2.Record:
    message = intent(sequence)
    message.principal.CopyFrom(named(subject, **fields))
    message.client_request_id = f"request of {subject}"
    return message


def everything(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())


async def entry(running: RunningLog, index: int) -> dict[str, Any]:
    response = await running.stub.GetRecord(pb.GetRecordRequest(index=index))
    decoded: dict[str, Any] = msgspec.json.decode(response.record.entry)
    return decoded


async def listed(running: RunningLog, **fields: Any) -> list[int]:
    request = pb.ListRecordsRequest(filter=pb.RecordFilter(**fields))
    return [stored.index for stored in (await running.stub.ListRecords(request)).records]


async def forget(running: RunningLog, subject: str) -> pb.ForgetPrincipalResponse:
    request = pb.ForgetPrincipalRequest(principal=named(subject), order=ORDER)
    response: pb.ForgetPrincipalResponse = await running.stub.ForgetPrincipal(request)
    return response


async def key_of(running: RunningLog, index: int, owner: str = "") -> bytes:
    request = pb.GetCommitmentKeyRequest(index=index)
    if owner:
        request.owner.CopyFrom(named(owner))
    key: bytes = (await running.stub.GetCommitmentKey(request)).commitment_key
    return key


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[RunningLog]:
    async with running_log(tmp_path, principal="pseudonym") as started:
        yield started


async def test_the_log_shows_a_pseudonym_and_never_the_subject(
    running: RunningLog, tmp_path: Path
) -> None:
    first, second = await running.append([of(1, "alice"), of(2, "alice")])
    (third,) = await running.append([of(3, "bob")])
    who = (await entry(running, first))["principal"]
    assert who["pseudonym"] is True
    assert (who["tenant"], who["issuer"]) == ("acme", "apikey")
    assert who["subject"] == (await entry(running, second))["principal"]["subject"]
    assert who["subject"] != (await entry(running, third))["principal"]["subject"]
    assert "alice" not in (await entry(running, first))["client_request_id"]
    data = everything(tmp_path)
    assert b"alice" not in data
    assert b"bob" not in data


async def test_a_plain_log_shows_the_subject(tmp_path: Path) -> None:
    async with running_log(tmp_path, principal="plain") as running:
        (index,) = await running.append([of(1, "alice")])
        who = (await entry(running, index))["principal"]
    assert (who["subject"], who.get("pseudonym")) == ("alice", None)


async def test_owners_and_auditors_find_records_by_name_while_the_key_lives(
    running: RunningLog,
) -> None:
    mine, other, elsewhere = await running.append(
        [of(1, "alice"), of(2, "bob"), of(3, "alice", tenant="other")]
    )
    assert await listed(running, owner=named("alice")) == [mine]
    assert await listed(running, subject="alice") == [elsewhere, mine]
    assert await listed(running, subject="alice", tenant="other") == [elsewhere]
    shown = (await entry(running, mine))["principal"]["subject"]
    assert await listed(running, subject=shown) == [mine]
    assert await listed(running, owner=named(shown)) == []
    assert await listed(running, subject="nobody") == []
    assert other in await listed(running)


async def test_a_restart_keeps_pseudonyms(tmp_path: Path) -> None:
    async with running_log(tmp_path, principal="pseudonym") as running:
        (first,) = await running.append([of(1, "alice")])
        before = (await entry(running, first))["principal"]["subject"]
    async with running_log(tmp_path, principal="pseudonym") as running:
        (again,) = await running.append([of(2, "alice")])
        assert (await entry(running, again))["principal"]["subject"] == before
        assert await running.append([of(1, "alice")]) == [first]


async def test_a_record_its_key_and_its_texts_are_their_owners_alone(running: RunningLog) -> None:
    (index,) = await running.append([of(1, "alice")])
    assert await key_of(running, index, "alice") == of(1, "alice").commitment_key
    assert await key_of(running, index) == of(1, "alice").commitment_key
    for method, request in (
        ("GetRecord", pb.GetRecordRequest(index=index, owner=named("bob"))),
        ("GetReceipt", pb.GetReceiptRequest(index=index, owner=named("bob"))),
        ("GetCommitmentKey", pb.GetCommitmentKeyRequest(index=index, owner=named("bob"))),
        ("GetTexts", pb.GetTextsRequest(index=index, owner=named("alice", tenant="other"))),
    ):
        with pytest.raises(NotFound, match="not yours"):
            await getattr(running.stub, method)(request)


async def test_only_the_gateway_reads_and_orders(running: RunningLog) -> None:
    stub = running.stub_of("model")
    for method, request in (
        ("GetCommitmentKey", pb.GetCommitmentKeyRequest()),
        ("GetTexts", pb.GetTextsRequest()),
        ("StoreTexts", pb.StoreTextsRequest()),
        ("ForgetPrincipal", pb.ForgetPrincipalRequest()),
        ("EraseRecords", pb.EraseRecordsRequest()),
        ("LookUpPrincipal", pb.LookUpPrincipalRequest()),
    ):
        with pytest.raises(PermissionDenied):
            await getattr(stub, method)(request)


async def test_a_record_without_commitments_has_no_key(running: RunningLog) -> None:
    (index,) = await running.append([record(1)])
    with pytest.raises(NotFound, match="no key"):
        await key_of(running, index)
    with pytest.raises(NotFound, match="no record 99"):
        await key_of(running, 99)


async def test_captured_texts_come_back_and_go_with_the_key(
    running: RunningLog, tmp_path: Path
) -> None:
    (index,) = await running.append([of(1, "alice")])
    origin = "weaver.local/development/audit-0"
    sealed = seal_text(of(1, "alice").commitment_key, origin, index, "prompt_sent", b"my prompt")
    text = pb.SealedText(
        index=index, kind=record_pb2.COMMITMENT_KIND_PROMPT_SENT, sealed=sealed, size=9
    )
    store = pb.StoreTextsRequest(origin=origin, texts=[text])
    assert (await running.stub.StoreTexts(store)).kept == 1
    request = pb.GetTextsRequest(index=index, owner=named("alice"))
    (found,) = (await running.stub.GetTexts(request)).texts
    assert (found.kind, found.data, found.size) == (text.kind, b"my prompt", 9)
    assert b"my prompt" not in everything(tmp_path)
    erase = pb.EraseRecordsRequest(indexes=[index], order=ORDER)
    assert (await running.stub.EraseRecords(erase)).erased == 1
    with pytest.raises(NotFound) as caught:
        await running.stub.GetTexts(request)
    assert caught.value.reason == "ERASED"
    assert sealed not in everything(tmp_path)
    # What was on its way when the key went is not kept.
    assert (await running.stub.StoreTexts(store)).kept == 0
    with pytest.raises(InvalidArgument, match="origin"):
        await running.stub.StoreTexts(pb.StoreTextsRequest(origin="other", texts=[text]))


async def test_a_forgotten_principal_is_found_no_more_and_the_log_still_verifies(
    running: RunningLog, tmp_path: Path
) -> None:
    mine, theirs = await running.append([of(1, "alice"), of(2, "bob")])
    shown = (await entry(running, mine))["principal"]["subject"]
    done = await forget(running, "alice")
    assert (done.pseudonym, done.erased, done.plain_records) == (shown, 1, 0)
    assert await listed(running, owner=named("alice")) == []
    assert await listed(running, subject="alice") == []
    assert await listed(running, subject=shown) == [mine]
    with pytest.raises(NotFound) as caught:
        await key_of(running, mine)
    assert caught.value.reason == "ERASED"
    assert await key_of(running, theirs)
    (later,) = await running.append([of(3, "alice")])
    assert (await entry(running, later))["principal"]["subject"] != shown
    assert await listed(running, owner=named("alice")) == [later]
    with pytest.raises(NotFound, match="forgotten"):
        await running.stub.LookUpPrincipal(pb.LookUpPrincipalRequest(pseudonym=shown))
    order = await entry(running, done.index)
    assert order["type"] == "administration"
    assert order["attributes"] == {
        "action": "forget",
        "note": "asked by letter",
        "pseudonym": shown,
    }
    assert order["request_id"] == "order-1"
    assert order["principal"]["pseudonym"] is True
    assert b"alice" not in everything(tmp_path)
    report = verify(running.log, load_keys(Layout(running.log).keys))
    assert report.findings == []


async def test_whoever_was_never_known_cannot_be_forgotten(running: RunningLog) -> None:
    with pytest.raises(NotFound, match="never called, or were forgotten"):
        await forget(running, "nobody")


async def test_a_principal_may_be_looked_up_by_name_and_pseudonym(running: RunningLog) -> None:
    (index,) = await running.append([of(1, "alice")])
    shown = (await entry(running, index))["principal"]["subject"]
    for request in (
        pb.LookUpPrincipalRequest(pseudonym=shown),
        pb.LookUpPrincipalRequest(principal=identity_pb2.Principal(subject="alice")),
    ):
        found = await running.stub.LookUpPrincipal(request)
        assert (found.principal, found.pseudonym) == (named("alice"), shown)
    await running.append([of(2, "alice", tenant="other")])
    with pytest.raises(InvalidArgument, match="several"):
        await running.stub.LookUpPrincipal(
            pb.LookUpPrincipalRequest(principal=identity_pb2.Principal(subject="alice"))
        )


async def test_erasing_all_records_of_a_principal_leaves_them_known(running: RunningLog) -> None:
    mine, theirs = await running.append([of(1, "alice"), of(2, "bob")])
    request = pb.EraseRecordsRequest(principal=named("alice"), order=ORDER)
    done = await running.stub.EraseRecords(request)
    assert done.erased == 1
    assert b"alice" not in msgspec.json.encode(await entry(running, done.index))
    assert await listed(running, owner=named("alice")) == [mine]
    with pytest.raises(NotFound):
        await key_of(running, mine)
    assert await key_of(running, theirs)
    (later,) = await running.append([of(3, "alice")])
    assert await key_of(running, later)


async def test_records_from_plain_times_are_erased_by_name_and_cannot_be_forgotten(
    tmp_path: Path,
) -> None:
    async with running_log(tmp_path, principal="plain") as running:
        (old,) = await running.append([of(1, "alice")])
    async with running_log(tmp_path, principal="pseudonym") as running:
        with pytest.raises(NotFound, match="1 records, from times without pseudonyms"):
            await forget(running, "alice")
        (new,) = await running.append([of(2, "alice")])
        assert await listed(running, owner=named("alice")) == [new, old]
        request = pb.EraseRecordsRequest(principal=named("alice"), order=ORDER)
        assert (await running.stub.EraseRecords(request)).erased == 2
        assert (await forget(running, "alice")).plain_records == 1


@pytest.mark.parametrize(
    "request_message",
    [
        pb.EraseRecordsRequest(order=ORDER),
        pb.EraseRecordsRequest(indexes=[1], principal=named("alice"), order=ORDER),
        pb.EraseRecordsRequest(indexes=[1], order=pb.Order(note="x" * 257)),
        pb.EraseRecordsRequest(principal=identity_pb2.Principal(subject="alice"), order=ORDER),
    ],
)
async def test_an_order_that_is_not_clear_is_refused(
    running: RunningLog, request_message: pb.EraseRecordsRequest
) -> None:
    size = len(await listed(running))
    with pytest.raises(InvalidArgument):
        await running.stub.EraseRecords(request_message)
    assert len(await listed(running)) == size


async def test_a_backup_of_the_side_store_brings_nobody_back(tmp_path: Path) -> None:
    secrets, backup = tmp_path / "audit" / "log.secrets", tmp_path / "backup"
    async with running_log(tmp_path, principal="pseudonym") as running:
        mine, other = await running.append([of(1, "alice"), of(2, "bob")])
    shutil.copytree(secrets, backup)
    async with running_log(tmp_path, principal="pseudonym") as running:
        shown = (await forget(running, "alice")).pseudonym
        await running.stub.EraseRecords(pb.EraseRecordsRequest(indexes=[other], order=ORDER))
    shutil.rmtree(secrets)
    shutil.copytree(backup, secrets)
    async with running_log(tmp_path, principal="pseudonym") as running:
        for index in (mine, other):
            with pytest.raises(NotFound) as caught:
                await key_of(running, index)
            assert caught.value.reason == "ERASED"
        with pytest.raises(NotFound):
            await running.stub.LookUpPrincipal(pb.LookUpPrincipalRequest(pseudonym=shown))
        assert await listed(running, owner=named("alice")) == []


async def test_a_lost_side_store_stops_neither_records_nor_verification(tmp_path: Path) -> None:
    async with running_log(tmp_path, principal="pseudonym") as running:
        (old,) = await running.append([of(1, "alice")])
    shutil.rmtree(Layout(running.log).side_store)
    assert verify(running.log, load_keys(Layout(running.log).keys)).findings == []
    async with running_log(tmp_path, principal="pseudonym") as running:
        (new,) = await running.append([of(2, "alice")])
        serving, detail = running.component.health.snapshot()["side_store"]
        assert (serving, "missing" in detail) == (False, True)
        with pytest.raises(NotFound, match="has lost"):
            await key_of(running, old)
        assert await key_of(running, new)
    assert verify(running.log, load_keys(Layout(running.log).keys)).findings == []


async def test_a_wrong_key_stops_the_start_by_name(tmp_path: Path) -> None:
    async with running_log(tmp_path):
        pass
    with pytest.raises(SettingsError, match="WEAVER_AUDIT_STORE_KEY"):
        async with running_log(tmp_path, store_key="00" * 32):
            pass
    with pytest.raises(SettingsError, match="WEAVER_AUDIT_STORE_KEY: must be 32 random bytes"):
        async with running_log(tmp_path, store_key="short"):
            pass


async def test_a_new_key_replaces_the_old_one_at_the_next_start(tmp_path: Path) -> None:
    old, new = "11" * 32, "22" * 32
    async with running_log(tmp_path, principal="pseudonym", store_key=old) as running:
        (index,) = await running.append([of(1, "alice")])
        shown = (await entry(running, index))["principal"]["subject"]
    settings: dict[str, Any] = {"principal": "pseudonym", "store_key": new}
    async with running_log(tmp_path, store_key_previous=old, **settings) as running:
        assert await key_of(running, index, "alice")
    async with running_log(tmp_path, **settings) as running:
        assert await key_of(running, index, "alice") == of(1, "alice").commitment_key
        (again,) = await running.append([of(2, "alice")])
        assert (await entry(running, again))["principal"]["subject"] == shown


async def test_a_start_with_another_configuration_is_in_the_log(tmp_path: Path) -> None:
    async def changes(running: RunningLog) -> list[dict[str, str]]:
        types = [record_pb2.EVENT_TYPE_CONFIGURATION_CHANGED]
        return [
            (await entry(running, index))["attributes"]
            for index in await listed(running, types=types)
        ]

    def started(sequence: int, digest: str, setting: str) -> record_pb2.Record:
        message = record(sequence, event_type=record_pb2.EVENT_TYPE_SERVICE_STARTED)
        message.attributes.update(
            {"settings_sha256": digest, "settings": setting, "service": "gateway"}
        )
        return message

    async with running_log(tmp_path) as running:
        await running.append([started(1, "aa", "LOG_LEVEL=1"), started(2, "aa", "LOG_LEVEL=1")])
        assert await changes(running) == []
    async with running_log(tmp_path, max_pending=2_000) as running:
        await running.append([started(3, "bb", "LOG_LEVEL=1 WEAVER_X=2")])
        gateway, audit = await changes(running)
    assert (gateway["service"], gateway["changed"]) == ("gateway", "WEAVER_X")
    assert (gateway["previous_sha256"], gateway["settings_sha256"]) == ("aa", "bb")
    assert (audit["service"], audit["changed"]) == ("audit", "WEAVER_AUDIT_MAX_PENDING")


async def test_an_outcome_keeps_its_callers_pseudonym(running: RunningLog) -> None:
    first, second = await running.append([intent(1), outcome(2, of=1)])
    assert (await entry(running, first))["principal"]["subject"]
    assert (await entry(running, second))["intent_id"]["sequence"] == 1


async def test_no_record_slips_behind_an_order_to_forget(
    running: RunningLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = WriteAheadLog.commit

    def slow(self: WriteAheadLog, batches: Any) -> None:
        time.sleep(0.03)  # On the disk's thread: records wait behind those that are written.
        commit(self, batches)

    monkeypatch.setattr(WriteAheadLog, "commit", slow)
    numbers = iter(range(1, 100_000))
    done = asyncio.Event()

    async def load() -> None:
        while not done.is_set():
            newcomer = of(next(numbers), f"newcomer-{next(numbers)}")
            await running.append([of(next(numbers), "alice"), newcomer])

    workers = [asyncio.create_task(load()) for _ in range(4)]
    await asyncio.sleep(0.1)
    shown = []
    for _ in range(3):
        shown.append((await forget(running, "alice")).pseudonym)
        await asyncio.sleep(0.05)  # Records of the new pseudonym come in.
    done.set()
    await asyncio.gather(*workers)
    found = [index for pseudonym in shown for index in await listed(running, subject=pseudonym)]
    assert len(found) > len(shown)
    for index in found:
        with pytest.raises(NotFound) as caught:
            await key_of(running, index)
        assert caught.value.reason == "ERASED"


async def test_an_erasure_that_broke_off_is_finished_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_log(tmp_path, principal="pseudonym") as running:
        (index,) = await running.append([of(1, "alice")])
        shown = (await entry(running, index))["principal"]["subject"]

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as broken:
            broken.setattr("services.audit.sidestore.commitment_keys.CommitmentKeys.erase", fail)
            with pytest.raises(Unavailable, match="Order it again"):
                await forget(running, "alice")
        assert await key_of(running, index)
    async with running_log(tmp_path, principal="pseudonym") as running:
        with pytest.raises(NotFound) as caught:
            await key_of(running, index)
        assert caught.value.reason == "ERASED"
        assert await listed(running, subject=shown) == [index]


async def test_a_key_that_is_gone_is_not_replaced_by_a_new_one(tmp_path: Path) -> None:
    async with running_log(tmp_path, principal="pseudonym") as running:
        await running.append([intent(1)])
    key = tmp_path / "keys" / "audit-store.key"
    aside = key.rename(key.with_name("aside"))
    with pytest.raises(SettingsError, match=r"audit-store\.key is missing, .* Put the key back"):
        async with running_log(tmp_path, principal="pseudonym"):
            pass
    assert not key.exists()
    aside.rename(key)
    async with running_log(tmp_path, principal="pseudonym") as running:
        assert running.component.health.serving
