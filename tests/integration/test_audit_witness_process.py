"""Witnesses as processes of their own: a log and its auditors, kill -9, forks, TLS."""

import asyncio
import concurrent.futures
import http.client
import itertools
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit.checkpoint import Checkpoint, parse_signed_checkpoint
from services.audit.keys.signers import Signer
from services.audit.merkle import RightEdge, consistency_proof, leaf_hash, root_of
from services.audit.note import Note, parse_note, sign_note
from services.audit.verification.inventory import WITNESSED
from services.audit.witnesses.cosignature import CosignerKey, cosigned_text, parse_cosigner_key
from services.audit.witnesses.witness import add_checkpoint_request
from services.common.certificates import ensure
from services.common.settings import CommonSettings
from tests.fakes.auditlog import record, running_log
from tests.fakes.waiting import eventually
from tests.fakes.witness import WitnessProcess
from weaver.audit.v1 import audit_service_pb2 as pb

ORIGIN = "weaver.test/log"
LOG = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(32)))


class Leaves:
    """A tree in memory; a fork has other leaves from the fourth on."""

    def __init__(self, fork: bytes = b"") -> None:
        self._leaves = [
            leaf_hash((fork if n > 2 else b"") + n.to_bytes(4, "big")) for n in range(4_000)
        ]

    def node(self, level: int, index: int) -> bytes:
        return root_of(self._leaves[index << level : (index + 1) << level])

    def note(self, size: int) -> Note:
        edge = RightEdge()
        for _ in edge.append(self._leaves[:size]):
            pass
        return sign_note(Checkpoint(ORIGIN, size, edge.root()).text, [LOG])

    def request(self, old: int, size: int) -> bytes:
        return add_checkpoint_request(old, consistency_proof(self, old, size), self.note(size))


TREE, FORK = Leaves(), Leaves(b"fork")


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[WitnessProcess]:
    running = WitnessProcess(tmp_path / "witness", str(LOG.verifier))
    yield running
    if running.process.poll() is None:
        assert running.stop() == 0


def test_a_witness_speaks_the_protocol_over_http(witness: WitnessProcess) -> None:
    assert witness.get(f"/{sha256(ORIGIN.encode()).hexdigest()}/checkpoint")[0] == 404
    status, _, lines = witness.post(TREE.request(0, 5))
    assert status == 200
    note = parse_note(f"{TREE.note(5).text}\n".encode() + lines)
    keys = [parse_cosigner_key(line) for line in witness.ready["verifier_keys"]]
    for key, line in zip(keys, note.signatures, strict=True):
        assert key.time_of(cosigned_text(note), line.signature)
    assert witness.post(TREE.request(3, 9)) == (409, "text/x.tlog.size", b"5\n")
    assert witness.post(FORK.request(5, 9))[0] == 422
    assert witness.post(b"x" * 500_000)[0] == 413
    assert witness.post(b"")[0] == 400
    assert witness.get("/add-checkpoint")[0] == 405
    assert witness.get("/nothing")[0] == 404
    status, kept = witness.get(f"/{sha256(ORIGIN.encode()).hexdigest()}/checkpoint")
    assert (status, kept.endswith(lines)) == (200, True)
    assert f'witness_cosigned_size{{origin="{ORIGIN}"}} 5.0' in witness.get("/metrics")[1].decode()
    assert witness.get("/")[1] == f"{ORIGIN} 5\n".encode()


def test_one_connection_serves_many_requests(witness: WitnessProcess) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", witness.port, timeout=10)
    for old, size in itertools.pairwise((0, 1, 2, 3)):
        connection.request("POST", "/add-checkpoint", TREE.request(old, size))
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        assert connection.sock is not None
    connection.close()


def test_a_witness_that_is_killed_again_and_again_never_signs_two_forks(
    witness: WitnessProcess,
) -> None:
    """Killed at any moment, under requests for two forks at once, it stays on one branch."""
    chance = random.Random(7)  # noqa: S311 - the same moments each time
    assert witness.post(TREE.request(0, 3))[0] == 200
    signed: list[tuple[int, str]] = []

    def ask(tree: Leaves, name: str, old: int, size: int) -> None:
        with suppress(OSError, http.client.HTTPException):
            status, _, _ = witness.post(tree.request(old, size))
            if status == 200:
                signed.append((size, name))

    known = 3
    for _ in range(12):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for step in range(1, 25):
                for tree, name in ((TREE, "tree"), (FORK, "fork")):
                    pool.submit(ask, tree, name, known, known + step)
                    pool.submit(ask, tree, name, known + step, known + step + 1)
            asyncio.run(asyncio.sleep(chance.uniform(0.0, 0.12)))
            witness.process.kill()
        witness.stop(signal.SIGKILL)
        witness.start()
        answer = witness.post(TREE.request(0, 3))
        assert answer[0] == 409
        stored = int(answer[2])
        assert stored >= max([known, *(size for size, _ in signed)])
        known = stored
    assert len({name for _, name in signed}) == 1, signed
    assert known > 3


async def test_a_log_has_its_checkpoints_cosigned_and_an_auditor_demands_it(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    async with running_log(state) as running:
        keys = running.log.with_name("log.keys")
        assert keys.exists()
    with ExitStack() as stack:
        witnesses = []
        for number in range(3):
            one = WitnessProcess(
                tmp_path / f"w{number}", str(keys), options=("--name", f"witness.test/{number}")
            )
            stack.callback(one.stop)
            witnesses.append(one)
        policy = tmp_path / "policy"
        lines = [
            f"witness w{number} {one.ready['verifier_keys'][number % 2]} {one.ready['url']}"
            for number, one in enumerate(witnesses)
        ]
        policy.write_text("\n".join([*lines, "group g 2 w0 w1 w2", "quorum g", ""]))
        options = {"witness_policy": policy, "witness_interval_s": 0.1}
        async with running_log(state, **options) as running:
            await running.append([record(number) for number in range(1, 600)])
            await eventually(lambda: cosigned(running.log) >= 600)
            receipt = await running.stub.GetReceipt(pb.GetReceiptRequest(index=7))
            shown = await running.stub.GetCheckpoint(pb.GetCheckpointRequest(witnessed=True))
            await eventually(
                lambda: all(up for name, (up, _) in health(running).items() if "witness" in name)
            )
            # The log rests, so its own checkpoint carries the lines as well.
            await eventually(lambda: "witness.test" in (running.log / "checkpoint").read_text())
            (tmp_path / "record").write_bytes(receipt.record.entry)
            (tmp_path / "record.tlog-proof").write_text(receipt.proof)
            assert "witness.test/1" in shown.checkpoint
            witnesses[0].stop(signal.SIGKILL)
            await running.append([record(number) for number in range(600, 700)])
            await eventually(lambda: cosigned(running.log) >= 700)
            await eventually(lambda: not health(running)["witness:w0"][0])
            assert health(running)[""][0]
            witnesses[1].stop(signal.SIGKILL)
            await running.append([record(700)])
            alone = cosigned(running.log)
            await asyncio.sleep(0.5)
            assert cosigned(running.log) == alone
            witnesses[0].start()
            await eventually(lambda: cosigned(running.log) > alone, 20)
            witnesses[1].start()
    audit_it(running.log, tmp_path, policy, lines)


def audit_it(log: Path, receipt: Path, policy: Path, lines: list[str]) -> None:
    """Do what an auditor does who has the policy, the log and a receipt."""
    keys = log.with_name("log.keys")
    good = weaver("verify", str(log), "--policy", str(policy), "--no-remember")
    assert good.returncode == 0, good.stdout
    assert "quorum       met for the first" in good.stdout
    proven = weaver(
        "verify-receipt", str(receipt / "record"), "--key", str(keys), "--policy", str(policy)
    )
    assert proven.returncode == 0, proven.stdout + proven.stderr
    strict = receipt / "strict"
    other = Ed25519PrivateKey.generate()
    absent = CosignerKey("absent.test/w", other.public_key())
    strict.write_text("\n".join([*lines, f"witness x {absent}", "quorum x", ""]))
    bad = weaver("verify", str(log), "--policy", str(strict), "--json", "--no-remember")
    assert bad.returncode == 1
    document = json.loads(bad.stdout)
    assert (document["good"], document["vouching"]["quorum"]) == (True, False)
    assert document["vouching"]["witnesses"]["w0"]["size"] >= 600
    assert document["vouching"]["witnesses"]["x"]["size"] is None


def health(running: Any) -> dict[str, tuple[bool, str]]:
    found: dict[str, tuple[bool, str]] = running.component.health.snapshot()
    return found


def cosigned(log: Path) -> int:
    try:
        return parse_signed_checkpoint((log / WITNESSED).read_bytes()).checkpoint.size
    except FileNotFoundError:
        return 0


def weaver(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.cli", "audit", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


async def test_a_witness_behind_tls_is_reached_with_its_authority_and_not_without(
    tmp_path: Path,
) -> None:
    ensure(CommonSettings(state_dir=tmp_path / "ca"))
    tls = tmp_path / "ca" / "tls"
    state = tmp_path / "state"
    async with running_log(state) as running:
        keys = running.log.with_name("log.keys")
    options = ("--tls-cert", str(tls / "audit.pem"), "--tls-key", str(tls / "audit-key.pem"))
    witness = WitnessProcess(tmp_path / "witness", str(keys), options=options)
    try:
        policy = tmp_path / "policy"
        url = witness.ready["url"].replace("127.0.0.1", "localhost")
        assert url.startswith("https://")
        key = witness.ready["verifier_keys"][0]
        policy.write_text(f"witness w {key} {url}\nquorum w\n")
        async with running_log(state, witness_policy=policy, witness_interval_s=0.1) as running:
            await running.append([record(1)])
            await eventually(lambda: not health(running)["witness:w"][0])
            assert "certificate" in health(running)["witness:w"][1].lower()
            assert cosigned(running.log) == 0
        trusted = {"witness_policy": policy, "witness_ca": tls / "ca.pem"}
        async with running_log(state, **trusted) as running:
            await running.append([record(2)])
            await eventually(lambda: cosigned(running.log) > 0)
    finally:
        witness.stop()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--log", str(LOG.verifier), "--listen", "0.0.0.0:0"),
        ("--log", str(LOG.verifier), "--listen", "nonsense"),
        ("--log", "/nowhere/keys"),
        ("--log", str(LOG.verifier), "--tls-cert", "/nowhere/cert.pem"),
    ],
)
def test_a_witness_that_cannot_run_says_why(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    refused = weaver("witness", "--state", str(tmp_path / "state"), *arguments)
    assert refused.returncode == 2
    assert refused.stderr.startswith("weaver: ")
    assert "Traceback" not in refused.stderr


def test_two_witnesses_on_one_state_are_refused(witness: WitnessProcess) -> None:
    second = weaver("witness", "--log", str(LOG.verifier), "--state", str(witness.state))
    assert second.returncode == 2
    assert "another witness" in second.stderr
