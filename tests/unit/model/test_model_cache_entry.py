"""Names and seals of what the cache keeps."""

import msgspec
import pytest

from services.model.cache.entry import PREFIX, Entry, Seal
from services.model.call import Call, Dialect

CALL = Call(
    "r-1",
    Dialect.OPENAI_CHAT,
    "m",
    b'{"model":"m","temperature":0}',
    (("openai-beta", "x"),),
    caller=("tenant", "apikey", "ann"),
)
ENTRY = Entry(
    (b"a", b"b"), "text/event-stream", (("h", "v"),), "r-1", 1.5, "p", "m", 7, "v1", "stop"
)
SEAL = Seal(b"k" * 32)


def test_what_was_sealed_opens() -> None:
    name = SEAL.name(CALL, b"route")
    assert Seal(b"k" * 32).open(name, SEAL.close(name, ENTRY)) == ENTRY


def test_the_same_request_has_the_same_name_whatever_else_is_new() -> None:
    again = msgspec.structs.replace(
        CALL,
        request_id="r-2",
        timeout_s=9.0,
        headers=(("idempotency-key", "9"), ("openai-beta", "x"), ("cache-control", "max-age=1")),
    )
    assert SEAL.name(again, b"route") == SEAL.name(CALL, b"route")


@pytest.mark.parametrize(
    "change",
    [
        {"caller": ("other", "apikey", "ann")},
        {"caller": ("another", "apikey", "ann")},
        {"caller": ("tenant", "issuer", "ann")},
        {"caller": ("tenant", "apikey", "bob")},
        {"caller": ("tenanta", "pikey", "ann")},
        {"dialect": Dialect.ANTHROPIC_MESSAGES},
        {"model": "n"},
        {"body": b'{"model":"m", "temperature":0}'},
        {"headers": ()},
        {"max_output_tokens": 5},
    ],
)
def test_what_is_not_the_same_request_has_another_name(change: dict[str, object]) -> None:
    """An answer is never shared between callers."""
    other = msgspec.structs.replace(CALL, **change)
    assert SEAL.name(other, b"route") != SEAL.name(CALL, b"route")


def test_other_targets_and_other_keys_give_other_names() -> None:
    assert SEAL.name(CALL, b"other") != SEAL.name(CALL, b"route")
    assert Seal(b"j" * 32).name(CALL, b"route") != SEAL.name(CALL, b"route")


def test_the_store_sees_nothing() -> None:
    name = SEAL.name(CALL, b"route")
    sealed = SEAL.close(name, msgspec.structs.replace(ENTRY, pieces=(b"secret answer",)))
    assert name.startswith(PREFIX)
    assert len(name) == len(PREFIX) + 64
    for word in (b"secret", b"r-1", b"stop", b"ann", b"tenant"):
        assert word not in name + sealed


def test_the_same_answer_looks_different_each_time() -> None:
    name = SEAL.name(CALL, b"route")
    assert SEAL.close(name, ENTRY) != SEAL.close(name, ENTRY)


def test_what_was_touched_moved_or_made_by_others_does_not_open() -> None:
    name = SEAL.name(CALL, b"route")
    sealed = SEAL.close(name, ENTRY)
    for place in range(len(sealed)):
        touched = bytearray(sealed)
        touched[place] ^= 1
        assert SEAL.open(name, bytes(touched)) is None
    for size in range(len(sealed)):
        assert SEAL.open(name, sealed[:size]) is None
    assert SEAL.open(name, sealed + b"x") is None
    assert SEAL.open(SEAL.name(CALL, b"other"), sealed) is None
    assert Seal(b"j" * 32).open(name, sealed) is None
