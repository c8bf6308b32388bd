"""The side store: sealed at rest, erasable for good, set aside when it is damaged."""

import os
import sqlite3
from pathlib import Path

import pytest

from services.audit.ports import Entry
from services.audit.record import RecordId
from services.audit.sidestore.commitment_keys import CommitmentKeys, DamagedKeys, Erased
from services.audit.sidestore.pseudonyms import Identity, Pseudonyms
from services.audit.sidestore.store import SideStore
from services.audit.sidestore.text_seal import open_text
from services.audit.sidestore.texts import CapturedText, Texts
from services.audit.sidestore.vault import (
    Unreadable,
    Vault,
    VaultError,
    WrongKey,
    load_or_make_key,
    parse_key,
)

KEY, OTHER = bytes(range(32)), bytes(range(32, 64))
ALICE = Identity("acme", "https://issuer.example", "alice")
BOB = Identity("acme", "https://issuer.example", "bob")


def vault(path: Path, key: bytes = KEY, previous: bytes | None = None) -> Vault:
    return Vault(path / "keyring", "log", key, previous)


def entries(sealer: Vault, *keys: bytes | None) -> list[Entry]:
    return [
        Entry(b"", b"", RecordId(1, "gateway", i), None if key is None else sealer.seal(key))
        for i, key in enumerate(keys, 1)
    ]


def everything(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())


def test_what_is_sealed_opens_with_the_operators_key_alone(tmp_path: Path) -> None:
    sealed = vault(tmp_path).seal(b"secret", b"place")
    assert b"secret" not in sealed
    assert (tmp_path / "keyring").stat().st_mode & 0o777 == 0o600
    assert vault(tmp_path).open(sealed, b"place") == b"secret"
    with pytest.raises(WrongKey, match="WEAVER_AUDIT_STORE_KEY"):
        vault(tmp_path, OTHER)
    with pytest.raises(VaultError, match="another log's"):
        Vault(tmp_path / "keyring", "another log", KEY)


def test_a_sealed_value_that_was_changed_or_moved_does_not_open(tmp_path: Path) -> None:
    sealer = vault(tmp_path)
    sealed = sealer.seal(b"secret", b"place")
    for i in range(len(sealed)):
        bad = bytes(byte ^ (j == i) for j, byte in enumerate(sealed))
        with pytest.raises(Unreadable):
            sealer.open(bad, b"place")
    with pytest.raises(Unreadable):
        sealer.open(sealed, b"another place")
    with pytest.raises(Unreadable):
        sealer.open(b"", None)


def test_no_two_values_share_a_nonce(tmp_path: Path) -> None:
    sealer = vault(tmp_path)
    nonces = {sealer.seal(b"x")[4:16] for _ in range(1_000)}
    assert len(nonces) == 1_000


def test_a_damaged_keyring_is_named(tmp_path: Path) -> None:
    vault(tmp_path)
    path = tmp_path / "keyring"
    good = path.read_bytes()
    for bad in (b"", b"{}", good[:-20], good.replace(b'":"', b'":"AAAA', 3)):
        path.write_bytes(bad)
        with pytest.raises(VaultError, match="damaged"):
            vault(tmp_path)


@pytest.mark.parametrize("text", ["", "ab", "00" * 31, "00" * 33, "!" * 44, "A" * 43])
def test_a_key_that_is_no_key_is_refused_by_name_and_not_shown(text: str) -> None:
    with pytest.raises(VaultError, match="WEAVER_X: must be 32 random bytes") as caught:
        parse_key(text, "WEAVER_X")
    assert not text or text not in str(caught.value)


def test_a_key_may_be_hexadecimal_or_base64(tmp_path: Path) -> None:
    assert parse_key(KEY.hex() + "\n", "X") == KEY
    assert parse_key("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "X") == KEY
    made = load_or_make_key(tmp_path / "keys" / "store.key")
    assert load_or_make_key(tmp_path / "keys" / "store.key") == made
    assert (tmp_path / "keys" / "store.key").stat().st_mode & 0o777 == 0o600


def test_keys_are_kept_sealed_and_erased_for_good(tmp_path: Path) -> None:
    sealer = vault(tmp_path)
    path = tmp_path / "keys"
    store = CommitmentKeys(path, sealer)
    assert (store.size, store.commitment_key(0)) == (0, None)
    slots = entries(sealer, *(bytes([i]) * 32 if i % 2 else None for i in range(6)))
    store.apply(0, slots[:4])
    store.apply(2, slots[2:])
    assert path.stat().st_mode & 0o777 == 0o600
    assert store.size == 6
    assert store.commitment_key(3) == b"\x03" * 32
    assert store.commitment_key(2) is None
    assert store.commitment_key(6) is None
    assert store.erase([2, 3, 3, 99]) == 1
    assert store.erase([3]) == 0
    assert store.erased(3)
    store.apply(0, slots)  # A replay does not bring it back.
    with pytest.raises(Erased):
        store.commitment_key(3)
    store.close()
    data = path.read_bytes()
    assert slots[3].commitment_key is not None
    assert slots[3].commitment_key not in data
    assert all(bytes([i]) * 32 not in data for i in (1, 3, 5))
    again = CommitmentKeys(path, sealer)
    assert (again.size, again.commitment_key(5)) == (6, b"\x05" * 32)
    again.close()


def test_keys_beyond_the_end_of_the_log_are_let_go(tmp_path: Path) -> None:
    sealer = vault(tmp_path)
    store = CommitmentKeys(tmp_path / "keys", sealer)
    store.apply(0, entries(sealer, b"a" * 32, b"b" * 32, b"c" * 32))
    store.limit(5)
    assert store.size == 3
    store.limit(1)
    assert (store.size, store.commitment_key(1)) == (1, None)
    store.apply(1, entries(sealer, b"d" * 32))
    assert store.commitment_key(1) == b"d" * 32
    store.close()


@pytest.mark.parametrize("damage", [b"X", b"WEAVKEY2\xff"])
def test_a_store_of_keys_with_a_damaged_header_is_refused(tmp_path: Path, damage: bytes) -> None:
    sealer = vault(tmp_path)
    path = tmp_path / "keys"
    store = CommitmentKeys(path, sealer)
    store.apply(0, entries(sealer, b"k" * 32))
    store.close()
    path.write_bytes(damage + path.read_bytes()[len(damage) :])
    with pytest.raises(DamagedKeys, match="header"):
        CommitmentKeys(path, sealer)


def test_a_cut_off_store_has_lost_keys_and_no_wrong_ones(tmp_path: Path) -> None:
    sealer = vault(tmp_path)
    path = tmp_path / "keys"
    store = CommitmentKeys(path, sealer)
    store.apply(0, entries(sealer, b"a" * 32, b"b" * 32))
    store.close()
    os.truncate(path, path.stat().st_size - 10)
    store = CommitmentKeys(path, sealer)
    assert (store.size, store.commitment_key(0), store.commitment_key(1)) == (1, b"a" * 32, None)
    store.close()


def test_a_pseudonym_is_stable_across_restarts_and_new_after_forgetting(tmp_path: Path) -> None:
    sealer = vault(tmp_path)
    callers = Pseudonyms(tmp_path / "callers.db", sealer)
    assert callers.cached(ALICE) is None
    first = callers.ensure([ALICE, BOB])
    assert callers.cached(ALICE) is first[ALICE]
    assert first[ALICE].pseudonym != first[BOB].pseudonym
    callers.close()
    callers = Pseudonyms(tmp_path / "callers.db", vault(tmp_path))
    again = callers.ensure([ALICE])[ALICE]
    assert again.pseudonym == first[ALICE].pseudonym
    assert again.hide("my request") == first[ALICE].hide("my request") != "my request"
    assert again.hide("") == ""
    assert callers.reveal(again.pseudonym) == ALICE
    assert callers.forget(again.pseudonym)
    assert not callers.forget(again.pseudonym)
    assert callers.cached(ALICE) is None
    assert callers.get(ALICE) is None
    assert callers.reveal(again.pseudonym) is None
    assert callers.ensure([ALICE])[ALICE].pseudonym != again.pseudonym
    assert callers.get(BOB) is not None
    callers.close()


def test_callers_of_other_tenants_and_issuers_are_others(tmp_path: Path) -> None:
    callers = Pseudonyms(tmp_path / "callers.db", vault(tmp_path))
    same = [
        ALICE,
        ALICE._replace(tenant="other"),
        ALICE._replace(issuer="apikey"),
        Identity("acm", "ehttps://issuer.example", "alice"),
    ]
    callers.ensure(same)
    assert len({callers.ensure([who])[who].pseudonym for who in same}) == 4
    assert len(callers.find(Identity("", "", "alice"))) == 4
    assert [c.identity for c in callers.find(Identity("other", "", "alice"))] == [same[1]]
    assert [c.identity for c in callers.find(Identity("acme", "apikey", "alice"))] == [same[2]]
    assert callers.find(Identity("", "", "ali")) == []
    callers.close()


def test_the_database_of_callers_names_nobody_and_keeps_nothing_of_the_forgotten(
    tmp_path: Path,
) -> None:
    callers = Pseudonyms(tmp_path / "callers.db", vault(tmp_path))
    caller = callers.ensure([ALICE, BOB])[ALICE]
    data = everything(tmp_path)
    assert b"alice" not in data
    assert b"issuer.example" not in data
    with sqlite3.connect(tmp_path / "callers.db") as database:
        query = "SELECT sealed FROM callers WHERE pseudonym = ?"
        (sealed,) = database.execute(query, (caller.pseudonym,)).fetchone()
    database.close()
    assert sealed in everything(tmp_path)
    callers.forget(caller.pseudonym)
    data = everything(tmp_path)
    assert sealed not in data
    assert caller.pseudonym.encode() not in data
    callers.close()


def test_a_changed_row_costs_the_pseudonym_and_not_the_record(tmp_path: Path) -> None:
    callers = Pseudonyms(tmp_path / "callers.db", vault(tmp_path))
    old = callers.ensure([ALICE])[ALICE].pseudonym
    callers.close()
    with sqlite3.connect(tmp_path / "callers.db") as database:
        database.execute("UPDATE callers SET sealed = zeroblob(90)")
    database.close()
    callers = Pseudonyms(tmp_path / "callers.db", vault(tmp_path))
    assert callers.reveal(old) is None
    assert callers.ensure([ALICE])[ALICE].pseudonym != old
    callers.close()


def test_the_cache_of_callers_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.audit.sidestore.pseudonyms._MAX_CACHED", 3)
    callers = Pseudonyms(tmp_path / "callers.db", vault(tmp_path))
    many = [ALICE._replace(subject=str(i)) for i in range(10)]
    first = callers.ensure(many)
    assert sum(callers.cached(who) is not None for who in many) == 3
    assert callers.ensure(many[:1])[many[0]].pseudonym == first[many[0]].pseudonym
    callers.close()


def test_texts_are_kept_by_record_and_deleted_without_a_trace(tmp_path: Path) -> None:
    texts = Texts(tmp_path / "texts.db")
    texts.put([CapturedText(7, "prompt_sent", 5, False, b"sealed-one" * 9)])
    texts.put([CapturedText(7, "prompt_sent", 5, False, b"another")])
    texts.put([CapturedText(8, "answer_sent", 5, True, b"sealed-two" * 9)])
    assert [text.sealed for text in texts.of(7)] == [b"sealed-one" * 9]
    assert texts.of(8)[0].truncated
    texts.erase([7, 9])
    assert texts.of(7) == []
    assert b"sealed-one" not in everything(tmp_path)
    assert texts.of(8) != []
    texts.close()


def test_a_text_opens_in_its_place_alone() -> None:
    from services.gateway.capture import seal_text  # noqa: PLC0415 - the other half of the format

    sealed = seal_text(KEY, "log", 7, "prompt_sent", b"hello")
    assert open_text(KEY, "log", 7, "prompt_sent", sealed) == b"hello"
    places = (("log", 8, "prompt_sent"), ("log", 7, "answer_sent"), ("other", 7, "prompt_sent"))
    for place in places:
        with pytest.raises(Unreadable):
            open_text(KEY, *place, sealed)
    with pytest.raises(Unreadable):
        open_text(OTHER, "log", 7, "prompt_sent", sealed)


def opened(path: Path, key: bytes = KEY, previous: bytes | None = None) -> SideStore:
    return SideStore(path / "log.secrets", "log", key, previous)


def filled(path: Path) -> tuple[str, bytes]:
    store = opened(path)
    store.keys.apply(0, entries(store.vault, b"a" * 32, None, b"c" * 32))
    store.keys.erase([2])
    pseudonym = store.callers.ensure([ALICE])[ALICE].pseudonym
    store.close()
    return pseudonym, everything(path)


def test_a_new_operators_key_seals_everything_anew(tmp_path: Path) -> None:
    pseudonym, _ = filled(tmp_path)
    before = (tmp_path / "log.secrets" / "commitment-keys").read_bytes()
    store = opened(tmp_path, OTHER, KEY)
    assert store.vault.turning
    assert store.keys.commitment_key(0) == b"a" * 32
    store.finish_turning()
    assert not store.vault.turning
    assert store.callers.ensure([ALICE])[ALICE].pseudonym == pseudonym
    store.close()
    with pytest.raises(WrongKey):
        opened(tmp_path)
    store = opened(tmp_path, OTHER)
    assert store.problems == []
    assert store.keys.commitment_key(0) == b"a" * 32
    assert store.keys.erased(2)
    old_slot = before[64:128]
    with pytest.raises(Unreadable, match="gone"):
        store.vault.open(old_slot)
    store.close()
    assert old_slot not in everything(tmp_path)


def test_a_change_of_keys_that_broke_off_is_finished_by_the_next_start(tmp_path: Path) -> None:
    pseudonym, _ = filled(tmp_path)
    store = opened(tmp_path, OTHER, KEY)
    store.close()  # Before everything was sealed anew.
    store = opened(tmp_path, OTHER)
    assert store.vault.turning
    assert store.keys.commitment_key(0) == b"a" * 32
    assert store.callers.reveal(pseudonym) == ALICE
    store.finish_turning()
    store.close()
    store = opened(tmp_path, OTHER)
    assert (store.vault.turning, store.keys.commitment_key(0)) == (False, b"a" * 32)
    store.close()


@pytest.mark.parametrize("name", ["keyring", "commitment-keys", "callers.db", "texts.db"])
def test_a_damaged_part_is_set_aside_and_begun_anew(tmp_path: Path, name: str) -> None:
    filled(tmp_path)
    path = tmp_path / "log.secrets" / name
    path.write_bytes(b"X" * 5_000)
    store = opened(tmp_path)
    assert len(store.problems) >= 1
    assert name in store.problems[0]
    assert [p.read_bytes() for p in path.parent.glob(f"{name}.damaged-*")] == [b"X" * 5_000]
    store.callers.ensure([BOB])
    store.close()


def test_a_lost_keyring_is_a_problem_and_not_an_end(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "log.secrets" / "keyring").unlink()
    store = opened(tmp_path)
    assert "keyring: it is missing" in store.problems[0]
    with pytest.raises(Unreadable):
        store.keys.commitment_key(0)
    assert store.callers.ensure([ALICE])
    store.close()
