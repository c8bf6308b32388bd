"""The witness: what it demands, and that it never signs two forks."""

import base64
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit.checkpoint import Checkpoint
from services.audit.keys.signers import Signer
from services.audit.merkle import EMPTY_ROOT, RightEdge, consistency_proof, leaf_hash, root_of
from services.audit.note import Note, parse_note, sign_note
from services.audit.witnesses.cosignature import cosigned_text
from services.audit.witnesses.log_keys import KnownLogs, LogKeysError
from services.audit.witnesses.store import (
    KEY_FILES,
    FileWitnessStore,
    WitnessStoreError,
    load_or_make_cosigners,
)
from services.audit.witnesses.witness import (
    SIZE_TYPE,
    Answer,
    Witness,
    add_checkpoint_request,
)

ORIGIN = "weaver.test/log"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
NOW = 1_700_000_000


class Leaves:
    """A tree in memory; a fork has other leaves from some index on."""

    def __init__(self, fork: bytes = b"") -> None:
        self._leaves = [
            leaf_hash(fork + bytes([n])) if n >= 3 else leaf_hash(bytes([n])) for n in range(64)
        ]

    def node(self, level: int, index: int) -> bytes:
        return root_of(self._leaves[index << level : (index + 1) << level])

    def root(self, size: int) -> bytes:
        edge = RightEdge()
        assert not list(edge.append(self._leaves[:size]))
        return edge.root()

    def request(self, old: int, size: int, *signers: Signer) -> bytes:
        proof = consistency_proof(self, old, size) if old <= size else []
        return add_checkpoint_request(old, proof, self.note(size, *signers))

    def note(self, size: int, *signers: Signer) -> Note:
        text = Checkpoint(ORIGIN, size, self.root(size)).text
        return sign_note(text, signers or [Signer(ORIGIN, KEY)])


TREE, FORK = Leaves(), Leaves(b"other")


@pytest.fixture
def open_witness(tmp_path: Path) -> Callable[[], Witness]:
    """Return a function that starts the witness anew on what it stored."""
    stores: list[FileWitnessStore] = []
    known = {ORIGIN: [Signer(ORIGIN, KEY).verifier]}

    def start() -> Witness:
        for store in stores:
            store.close()
        stores[:] = [FileWitnessStore(tmp_path / "state")]
        cosigners = load_or_make_cosigners(tmp_path / "state", "witness.test/w")
        return Witness(cosigners, lambda: known, stores[0], lambda: NOW)

    return start


@pytest.fixture
def witness(open_witness: Callable[[], Witness]) -> Witness:
    return open_witness()


def test_a_checkpoint_that_grows_is_cosigned_by_every_key(witness: Witness) -> None:
    cosigners = witness._cosigners
    for old, size in ((0, 1), (1, 5), (5, 5), (5, 64)):
        answer = witness.add_checkpoint(TREE.request(old, size))
        assert answer.status == 200
        note = TREE.note(size)
        lines = parse_note(f"{note.text}\n{answer.body}".encode()).signatures
        times = [
            one.verifier.time_of(cosigned_text(note), line.signature)
            for one, line in zip(cosigners, lines, strict=True)
        ]
        assert times == [NOW, NOW]


def test_the_size_of_another_old_checkpoint_is_answered_as_the_specification_says(
    witness: Witness,
) -> None:
    assert witness.add_checkpoint(TREE.request(0, 5)).status == 200
    for old, size in ((0, 7), (4, 7), (6, 7)):
        assert witness.add_checkpoint(TREE.request(old, size)) == Answer(409, "5\n", SIZE_TYPE)


def request_with(**changes: object) -> bytes:
    """Return a request from size 5 to 9 with something wrong in it."""
    proof = changes.get("proof", consistency_proof(TREE, 5, 9))
    note = changes.get("note", TREE.note(9))
    return add_checkpoint_request(int(str(changes.get("old", 5))), proof, note)  # type: ignore[arg-type]


PROOF = consistency_proof(TREE, 5, 9)
OTHER = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32))
ELSEWHERE = Signer("weaver.test/other", KEY)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"old 5\n", 400),
        (b"old 05\n\n" + str(TREE.note(9)).encode(), 400),
        (b"old -1\n\n" + str(TREE.note(9)).encode(), 400),
        (b"OLD 5\n\n" + str(TREE.note(9)).encode(), 400),
        (b"old 5\nnot base64\n\n" + str(TREE.note(9)).encode(), 400),
        (b"old 5\n" + base64.b64encode(bytes(31)) + b"\n\n" + str(TREE.note(9)).encode(), 400),
        (b"old 5\n\xff\n\n" + str(TREE.note(9)).encode(), 400),
        (b"old 5\n\nnot a note", 400),
        (request_with(proof=[bytes(32)] * 64), 400),
        (request_with(old=10, proof=[]), 400),
        (request_with(note=sign_note("weaver.test/log\nx\n", [Signer(ORIGIN, KEY)])), 400),
        (b"old 5\n\n" + b"x" * 200_000, 413),
        (
            request_with(
                note=sign_note(Checkpoint("weaver.test/other", 9, TREE.root(9)).text, [ELSEWHERE])
            ),
            404,
        ),
        (request_with(note=TREE.note(9, OTHER)), 403),
        (request_with(note=TREE.note(9, ELSEWHERE)), 403),
        (
            request_with(
                note=Note(TREE.note(9).text, TREE.note(8).signatures),
            ),
            403,
        ),
        (request_with(proof=[]), 422),
        (request_with(proof=PROOF[:-1]), 422),
        (request_with(proof=[*PROOF, bytes(32)]), 422),
        (request_with(proof=PROOF[::-1]), 422),
        (request_with(note=FORK.note(9)), 422),
        (request_with(note=FORK.note(9), proof=consistency_proof(FORK, 5, 9)), 422),
        (FORK.request(5, 5), 409),
        (add_checkpoint_request(5, PROOF, FORK.note(5)), 422),
        (request_with(), 200),
    ],
)
def test_whatever_is_wrong_gets_its_status_and_no_signature(
    witness: Witness, body: bytes, status: int
) -> None:
    assert witness.add_checkpoint(TREE.request(0, 5)).status == 200
    answer = witness.add_checkpoint(body)
    assert answer.status == status
    assert ("—" in answer.body) is (status == 200)
    assert witness.status() == [(ORIGIN, 9 if status == 200 else 5)]


def test_lines_of_unknown_keys_beside_the_logs_own_are_ignored(witness: Witness) -> None:
    own = Signer(ORIGIN, KEY)
    assert witness.add_checkpoint(TREE.request(0, 5, OTHER, own, ELSEWHERE)).status == 200
    kept = witness.checkpoint(sha256(ORIGIN.encode()).hexdigest())
    names = [line.key_id for line in parse_note(kept.body.encode()).signatures]
    assert names == [own.verifier.key_id, *(one.verifier.key_id for one in witness._cosigners)]


def test_the_first_checkpoint_needs_no_proof_and_may_have_none(witness: Witness) -> None:
    proof = [bytes(32)]
    assert witness.add_checkpoint(add_checkpoint_request(0, proof, TREE.note(5))).status == 422
    assert witness.add_checkpoint(TREE.request(0, 5)).status == 200


def test_an_empty_log_has_the_empty_trees_root(witness: Witness) -> None:
    bad = sign_note(Checkpoint(ORIGIN, 0, bytes(32)).text, [Signer(ORIGIN, KEY)])
    assert witness.add_checkpoint(add_checkpoint_request(0, [], bad)).status == 422
    good = sign_note(Checkpoint(ORIGIN, 0, EMPTY_ROOT).text, [Signer(ORIGIN, KEY)])
    assert witness.add_checkpoint(add_checkpoint_request(0, [], good)).status == 200
    assert witness.add_checkpoint(TREE.request(0, 5)).status == 200


def test_extension_lines_are_cosigned(witness: Witness) -> None:
    text = TREE.note(5).text + "extension\n"
    note = sign_note(text, [Signer(ORIGIN, KEY)])
    answer = witness.add_checkpoint(add_checkpoint_request(0, [], note))
    assert answer.status == 200


def test_monitors_get_what_was_cosigned(witness: Witness) -> None:
    name = sha256(ORIGIN.encode()).hexdigest()
    assert witness.checkpoint(name).status == 404
    lines = witness.add_checkpoint(TREE.request(0, 5)).body
    assert witness.checkpoint(name).body.endswith(lines)
    assert witness.checkpoint(sha256(b"other").hexdigest()).status == 404


def test_a_witness_remembers_across_restarts(open_witness: Callable[[], Witness]) -> None:
    first = open_witness()
    keys = [str(one.verifier) for one in first._cosigners]
    assert first.add_checkpoint(TREE.request(0, 9)).status == 200
    again = open_witness()
    assert [str(one.verifier) for one in again._cosigners] == keys
    assert again.add_checkpoint(FORK.request(0, 12)).body == "9\n"
    assert again.add_checkpoint(FORK.request(9, 12)).status == 422
    assert again.add_checkpoint(TREE.request(9, 12)).status == 200


def test_two_requests_at_once_never_fork_a_log(open_witness: Callable[[], Witness]) -> None:
    witness = open_witness()
    assert witness.add_checkpoint(TREE.request(0, 3)).status == 200
    bodies = [tree.request(3, size) for size in range(4, 34) for tree in (TREE, FORK)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(witness.add_checkpoint, bodies))
    assert sum(answer.status == 200 for answer in answers) == 1
    assert {answer.status for answer in answers} == {200, 409}


class FullDisk:
    """A store that refuses."""

    def load(self, origin: str) -> Note | None:
        return None

    def save(self, origin: str, note: Note) -> None:
        raise OSError(28, "No space left on device")


def test_nothing_is_signed_that_is_not_durable(witness: Witness) -> None:
    full = Witness(witness._cosigners, witness._logs, FullDisk())
    with pytest.raises(OSError, match="No space"):
        full.add_checkpoint(TREE.request(0, 5))


def test_a_clock_that_goes_back_does_not_take_the_signatures_along(
    open_witness: Callable[[], Witness],
) -> None:
    witness = open_witness()
    witness.add_checkpoint(TREE.request(0, 5))
    witness._clock = lambda: NOW - 1000
    witness.add_checkpoint(TREE.request(5, 6))
    note = witness._store.load(ORIGIN)
    assert note is not None
    key = witness._cosigners[0].verifier
    (line,) = [line for line in note.signatures if key.owns(line)]
    assert key.time_of(cosigned_text(note), line.signature) == NOW


def test_the_keys_are_the_owners_alone(witness: Witness, tmp_path: Path) -> None:
    for name in KEY_FILES:
        path = tmp_path / "state" / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    assert "PRIVATE" not in repr(witness._cosigners)
    (tmp_path / "state" / KEY_FILES[0]).chmod(0o644)
    with pytest.raises(WitnessStoreError, match="read by others"):
        load_or_make_cosigners(tmp_path / "state")


def test_a_state_is_one_witness_with_one_name(witness: Witness, tmp_path: Path) -> None:
    with pytest.raises(WitnessStoreError, match="another witness uses it"):
        FileWitnessStore(tmp_path / "state")
    with pytest.raises(WitnessStoreError, match=r"belongs to the witness witness\.test/w"):
        load_or_make_cosigners(tmp_path / "state", "other.test/w")
    assert load_or_make_cosigners(tmp_path / "state")[0].verifier.name == "witness.test/w"


def test_a_damaged_memory_stops_the_witness(
    open_witness: Callable[[], Witness], tmp_path: Path
) -> None:
    open_witness().add_checkpoint(TREE.request(0, 5))
    (path,) = (tmp_path / "state" / "logs").iterdir()
    whole = path.read_bytes()
    for data, word in ((whole[:40], "damaged"), (b"", "damaged")):
        path.write_bytes(data)
        with pytest.raises(WitnessStoreError, match=word):
            open_witness()
    path.write_bytes(whole)
    path.rename(path.with_name("0" * 64))
    with pytest.raises(WitnessStoreError, match="whose file it is not"):
        open_witness()


def test_a_memory_without_its_keys_is_not_continued_with_new_ones(
    open_witness: Callable[[], Witness], tmp_path: Path
) -> None:
    open_witness().add_checkpoint(TREE.request(0, 5))
    (tmp_path / "state" / "name").unlink()
    with pytest.raises(WitnessStoreError, match="restore it"):
        open_witness()


def test_known_logs_follow_their_file_and_survive_its_damage(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "logs"
    path.write_text(f"# ours\nlog {Signer(ORIGIN, KEY).verifier} https://log\nquorum none\n")
    known = KnownLogs([str(path), str(ELSEWHERE.verifier)], said.append)
    assert sorted(known()) == [ORIGIN, "weaver.test/other"]
    path.write_text("nonsense")
    assert sorted(known()) == [ORIGIN, "weaver.test/other"]
    known()
    assert len(said) == 1
    path.write_text(f"{Signer(ORIGIN, KEY).verifier}\n{OTHER.verifier}\n")
    assert len(known()[ORIGIN]) == 2
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(LogKeysError, match="holds no verifier key"):
        KnownLogs([str(tmp_path / "empty")], said.append)
    with pytest.raises(LogKeysError, match="No such file"):
        KnownLogs([str(tmp_path / "missing")], said.append)
