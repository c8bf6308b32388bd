"""Sending checkpoints to witnesses: what is kept, what is refused, who is left alone."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit.checkpoint import Checkpoint, SignedCheckpoint
from services.audit.history import History, read_history
from services.audit.keys.signers import Signer
from services.audit.merkle import RightEdge, consistency_proof, leaf_hash, root_of
from services.audit.note import Note, sign_note
from services.audit.witnesses.client import check_urls
from services.audit.witnesses.cosignature import Cosigner, cosigned_text
from services.audit.witnesses.policy import Policy, PolicyError, parse_policy
from services.audit.witnesses.vouching import vouched
from services.audit.witnesses.witness import Witness
from services.audit.witnesses.witnessed import Witnessed, read_witnessed
from services.audit.witnesses.witnessing import REFRESH_S, WitnessAnswer, WitnessFailure, Witnessing

ORIGIN = "weaver.test/log"
LOG = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(32)))


class TurnedClock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class GrowingLog:
    """A log in memory."""

    def __init__(self, fork: bytes = b"") -> None:
        self._leaves = [leaf_hash(fork + n.to_bytes(2, "big")) for n in range(200)]
        self.size = 5

    def node(self, level: int, index: int) -> bytes:
        return root_of(self._leaves[index << level : (index + 1) << level])

    def newest(self) -> SignedCheckpoint:
        edge = RightEdge()
        assert not list(edge.append(self._leaves[: self.size]))
        checkpoint = Checkpoint(ORIGIN, self.size, edge.root())
        return SignedCheckpoint(checkpoint, sign_note(checkpoint.text, [LOG]))

    async def prove(self, old: int, size: int) -> Sequence[bytes]:
        return consistency_proof(self, old, size)


class MemoryStore:
    """What a witness remembers."""

    def __init__(self) -> None:
        self.notes: dict[str, Note] = {}

    def load(self, origin: str) -> Note | None:
        return self.notes.get(origin)

    def save(self, origin: str, note: Note) -> None:
        self.notes[origin] = note


class RealWitness:
    """The witness itself, without the wire; `answer` replaces what it says."""

    def __init__(self, number: int, clock: TurnedClock) -> None:
        key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        self.cosigner = Cosigner(f"witness.test/{number}", key)
        self.store = MemoryStore()
        self._witness = Witness(
            [self.cosigner], lambda: {ORIGIN: [LOG.verifier]}, self.store, clock.time
        )
        self.requests = 0
        self.answer: WitnessAnswer | WitnessFailure | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def add_checkpoint(self, body: bytes) -> WitnessAnswer:
        self.requests += 1
        await self.gate.wait()
        if isinstance(self.answer, WitnessFailure):
            raise self.answer
        if self.answer is not None:
            return self.answer
        answer = self._witness.add_checkpoint(body)
        return WitnessAnswer(answer.status, answer.body.encode())


class Bench:
    """A log with three witnesses, of which two are a quorum; takes note of everything."""

    def __init__(self) -> None:
        self.clock = TurnedClock()
        self.log = GrowingLog()
        self.witnesses = [RealWitness(number, self.clock) for number in (1, 2, 3)]
        self.kept: list[tuple[SignedCheckpoint, bool]] = []
        self.failures: list[tuple[str, str]] = []
        self.sizes: dict[str, int] = {}
        self.quorum = 0
        self.refuse: OSError | None = None
        lines = [f"witness w{n} {w.cosigner.verifier}" for n, w in enumerate(self.witnesses, 1)]
        text = "\n".join([*lines, "group g 2 w1 w2 w3", "quorum g"])
        self.policy: Policy = parse_policy(text.encode())
        self.restart()

    def restart(self) -> None:
        self.witnessing = Witnessing(
            policy=self.policy,
            transports={f"w{n}": one for n, one in enumerate(self.witnesses, 1)},
            newest=lambda: self.log.newest(),  # noqa: PLW0108 - a test takes another log
            prove=lambda old, size: self.log.prove(old, size),  # noqa: PLW0108
            keep=self.keep,
            clock=self.clock,
            observer=self,
            interval_s=0,
        )

    async def keep(self, signed: SignedCheckpoint, quorum: bool) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.kept.append((signed, quorum))

    def cosigned(self, witness: str, size: int, time: int) -> None:
        self.sizes[witness] = size

    def witness_failed(self, witness: str, reason: str, message: str) -> None:
        self.failures.append((witness, reason))

    def quorum_reached(self, size: int) -> None:
        self.quorum = size

    async def round(self) -> None:
        await self.witnessing.have_round()
        while self.witnessing._tasks:
            if any(not witness.gate.is_set() for witness in self.witnesses):
                return
            await asyncio.sleep(0)

    @property
    def newest(self) -> SignedCheckpoint:
        return self.kept[-1][0]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_every_witness_cosigns_the_newest_checkpoint(bench: Bench) -> None:
    for size in (5, 6, 64, 65, 200):
        bench.log.size = size
        await bench.round()
        assert bench.sizes == {"w1": size, "w2": size, "w3": size}
        found = vouched(bench.newest.note, bench.policy, bench.clock.time())
        assert found.accepted
        assert [vouch.witness for vouch in found.vouches] == ["w1", "w2", "w3"]
    assert bench.quorum == 200
    assert bench.failures == []


async def test_the_logs_own_lines_stay_first_and_as_they_were(bench: Bench) -> None:
    await bench.round()
    own = bench.log.newest().note
    assert bench.newest.note.text == own.text
    assert bench.newest.note.signatures[:1] == own.signatures


async def test_after_a_restart_the_witnesses_tell_what_they_know(bench: Bench) -> None:
    await bench.round()
    bench.restart()
    bench.log.size = 9
    await bench.round()
    assert bench.sizes == {"w1": 9, "w2": 9, "w3": 9}
    assert [witness.requests for witness in bench.witnesses] == [3, 3, 3]
    assert bench.failures == []


async def test_a_checkpoint_that_is_cosigned_is_not_sent_again_before_an_hour(bench: Bench) -> None:
    await bench.round()
    await bench.round()
    assert [witness.requests for witness in bench.witnesses] == [1, 1, 1]
    bench.clock.now += REFRESH_S + 1
    await bench.round()
    times = {vouch.time for vouch in vouched(bench.newest.note, bench.policy, 2e9).vouches}
    assert times == {int(bench.clock.now)}


async def test_a_slow_witness_holds_up_nobody_and_its_line_comes_later(bench: Bench) -> None:
    slow = bench.witnesses[2]
    slow.gate.clear()
    await bench.round()
    assert (bench.quorum, "w3" in bench.sizes) == (5, False)
    bench.log.size = 7
    await bench.round()
    assert bench.quorum == 7
    assert slow.requests == 1
    slow.gate.set()
    await bench.round()
    assert (bench.quorum, bench.sizes["w3"]) == (7, 5)
    await bench.round()
    assert bench.sizes["w3"] == 7


async def test_a_witness_that_fails_is_left_alone_longer_each_time(bench: Bench) -> None:
    broken = bench.witnesses[0]
    broken.answer = WitnessFailure("unreachable", "it cannot be reached")
    asked_at: list[float] = []
    for _ in range(3_000):
        before = broken.requests
        await bench.round()
        if broken.requests > before:
            asked_at.append(bench.clock.now)
        bench.clock.now += 0.5
    pauses = [later - earlier for earlier, later in pairwise(asked_at)]
    assert pauses[0] <= 1.5
    assert 120 <= max(pauses) <= 301
    assert len(asked_at) < 25
    assert bench.quorum == 5


async def test_a_witness_that_asks_for_time_gets_it(bench: Bench) -> None:
    bench.witnesses[0].answer = WitnessAnswer(503, b"busy", retry_after_s=100.0)
    await bench.round()
    bench.clock.now += 49
    await bench.round()
    assert bench.witnesses[0].requests == 1
    bench.witnesses[0].answer = None
    bench.clock.now += 60
    await bench.round()
    assert bench.sizes["w1"] == 5


OTHER = Cosigner("witness.test/1", Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32))


def line_of(cosigner: Cosigner, signed: SignedCheckpoint, time: float) -> bytes:
    return cosigner.cosign(cosigned_text(signed.note), int(time)).line.encode()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda _: WitnessAnswer(404, b"unknown log\n"), "status_404"),
        (lambda _: WitnessAnswer(403, b""), "status_403"),
        (lambda _: WitnessAnswer(422, b"\xff\x00"), "status_422"),
        (lambda _: WitnessAnswer(500, b"<html>" * 1000), "status_500"),
        (lambda _: WitnessAnswer(302, b""), "status_302"),
        (lambda _: WitnessAnswer(200, b""), "garbage"),
        (lambda _: WitnessAnswer(200, b"\xff" * 90), "garbage"),
        (lambda _: WitnessAnswer(200, b"hello\n"), "garbage"),
        (lambda _: WitnessAnswer(409, b"many"), "garbage"),
        (lambda _: WitnessAnswer(409, b"05\n"), "garbage"),
        (lambda _: WitnessAnswer(409, b"9" * 40), "garbage"),
        (lambda _: WitnessAnswer(409, b"0\n"), "forked"),
        (lambda _: WitnessAnswer(409, b"6\n"), "rolled_back"),
        (lambda b: WitnessAnswer(200, line_of(OTHER, b.log.newest(), b.clock.now)), "no_signature"),
        (
            lambda b: WitnessAnswer(
                200, line_of(b.witnesses[0].cosigner, GrowingLog(b"x").newest(), b.clock.now)
            ),
            "bad_signature",
        ),
        (
            lambda b: WitnessAnswer(
                200, line_of(b.witnesses[0].cosigner, b.log.newest(), b.clock.now + 900)
            ),
            "bad_time",
        ),
        (
            lambda b: WitnessAnswer(200, line_of(b.witnesses[0].cosigner, b.log.newest(), 0)),
            "bad_signature",
        ),
    ],
)
async def test_whatever_a_witness_answers_wrongly_is_named_and_nothing_of_it_is_kept(
    bench: Bench, answer: Callable[[Bench], WitnessAnswer], reason: str
) -> None:
    bench.witnesses[0].answer = answer(bench)
    await bench.round()
    assert bench.failures == [("w1", reason)]
    names = {line.name for signed, _ in bench.kept for line in signed.note.signatures}
    assert names == {ORIGIN, "witness.test/2", "witness.test/3"}
    assert bench.quorum == 5


async def test_a_witness_that_never_agrees_on_a_size_is_given_up(bench: Bench) -> None:
    class Fickle:
        """Says another size each time."""

        def __init__(self) -> None:
            self.requests = 0

        async def add_checkpoint(self, body: bytes) -> WitnessAnswer:
            self.requests += 1
            return WitnessAnswer(409, b"%d\n" % (1 + self.requests % 3))

    fickle = Fickle()
    bench.witnessing._states[0].transport = fickle
    await bench.round()
    assert bench.failures == [("w1", "conflict")]
    assert fickle.requests == 4


async def test_a_log_that_was_forked_is_refused_by_its_witnesses(bench: Bench) -> None:
    await bench.round()
    bench.log = GrowingLog(b"forked")
    bench.log.size = 9
    await bench.round()
    assert bench.failures == [(f"w{n}", "status_422") for n in (1, 2, 3)]
    assert bench.quorum == 5


@pytest.mark.parametrize("body", [b"5\n", b"", b"the root is another one\n"])
async def test_a_conflict_over_a_size_that_the_witness_has_is_a_fork(
    bench: Bench, body: bytes
) -> None:
    await bench.round()
    bench.log = GrowingLog(b"forked")
    bench.witnesses[0].answer = WitnessAnswer(409, body)
    await bench.round()
    assert ("w1", "forked") in bench.failures


async def test_a_log_that_went_back_is_told_so_by_its_witnesses(bench: Bench) -> None:
    bench.log.size = 9
    await bench.round()
    bench.log.size = 7
    bench.restart()
    await bench.round()
    assert {reason for _, reason in bench.failures} == {"rolled_back"}


async def test_a_line_that_cannot_be_kept_is_asked_for_again(bench: Bench) -> None:
    bench.refuse = OSError(28, "No space left on device")
    await bench.round()
    assert {reason for _, reason in bench.failures} == {"disk"}
    bench.refuse = None
    bench.clock.now += 10
    await bench.round()
    assert bench.quorum == 5


async def test_a_log_without_a_checkpoint_asks_nobody(bench: Bench) -> None:
    bench.witnessing._newest = lambda: None
    await bench.round()
    assert [witness.requests for witness in bench.witnesses] == [0, 0, 0]


async def test_what_the_quorum_cosigned_lies_where_outsiders_find_it(
    bench: Bench, tmp_path: Path
) -> None:
    await bench.round()
    history = History(tmp_path / "witnessed.jsonl")
    kept = Witnessed(tmp_path / "checkpoint.witnessed", tmp_path, history)
    assert kept.newest is None
    kept.keep(bench.newest, 1.0)
    assert read_witnessed(tmp_path / "checkpoint.witnessed") == bench.newest
    assert read_history(tmp_path / "witnessed.jsonl") == [bench.newest]
    small = bench.newest
    bench.log.size = 20
    await bench.round()
    kept.keep(bench.newest, 2.0)
    kept.keep(small, 3.0)
    again = Witnessed(tmp_path / "checkpoint.witnessed", tmp_path, history)
    assert again.newest == bench.newest


@pytest.mark.parametrize("url", ["ftp://w", "w.example", "http://", "https://w:x/", "file:///etc"])
def test_a_witness_is_reached_by_http_alone(url: str) -> None:
    key = RealWitness(1, TurnedClock()).cosigner.verifier
    with pytest.raises(PolicyError, match="URL of the witness w"):
        check_urls(parse_policy(f"witness w {key} {url}\nquorum w\n".encode()))


def test_a_quorum_that_nobody_can_be_asked_for_is_refused() -> None:
    key = RealWitness(1, TurnedClock()).cosigner.verifier
    with pytest.raises(PolicyError, match="never be a quorum"):
        check_urls(parse_policy(f"witness w {key}\nquorum w\n".encode()))
    check_urls(parse_policy(f"witness w {key} https://w.example/prefix/\nquorum w\n".encode()))
