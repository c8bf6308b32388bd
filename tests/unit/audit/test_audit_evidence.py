"""Receipts as people hold them, and the texts that they prove."""

import base64
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from services.audit.merkle import leaf_hash
from services.audit.ports import Entry
from services.audit.record import Commitment, Record, RecordId, encode
from services.cli import audit
from tests.fakes.biglog import entry, signer, write_log

PROMPT = b'{"messages": [{"role": "user", "content": "What is new?"}]}'
ANSWER = b'{"choices": []}'
KEYS = {1: b"k" * 32, 2: b"l" * 32}


def committed(sequence: int, event_type: str, **texts: bytes) -> Entry:
    commitments = [
        Commitment(hmac.digest(KEYS[sequence], text, "sha256").hex(), kind)  # type: ignore[arg-type]
        for kind, text in texts.items()
    ]
    record_id = RecordId(1, "gateway-1", sequence)
    fields: dict[str, Any] = {"type": event_type, "intent_id": RecordId(1, "gateway-1", 1)}
    data = encode(
        Record(
            commitments=commitments,
            event_time="t",
            id=record_id,
            request_id="req-1",
            version=1,
            **fields,
        )
    )
    return Entry(data, leaf_hash(data), record_id, None)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEAVER_AUDITOR_DIR", str(tmp_path / "auditor"))
    batch = [
        committed(1, "intent", prompt_received=PROMPT, prompt_sent=b"redacted"),
        committed(2, "outcome", answer_received=b"raw", answer_sent=ANSWER),
        *(entry(i) for i in range(3, 300)),
    ]
    write_log(tmp_path, [batch])
    (tmp_path / "key.pem").write_text(signer().verifier.pem)
    (tmp_path / "prompt").write_bytes(PROMPT)
    (tmp_path / "answer").write_bytes(ANSWER + b"\n")
    return tmp_path


def run(*arguments: object) -> Result:
    result: Any = CliRunner().invoke(audit.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result  # type: ignore[no-any-return]


def receipt_of(name: object) -> list[Path]:
    result = run("receipt", name, "--log", "log")
    assert result.exit_code == 0, result.output
    return [Path(line) for line in result.stdout.split()]


def as_json(index: int, **more: object) -> Path:
    record, proof = receipt_of(index)
    said = {"index": index, "record": json.loads(record.read_text()), **more}
    path = Path(f"said-{index}.json")
    path.write_text(json.dumps({**said, "proof": proof.read_text()}, indent=2))
    return path


@pytest.mark.parametrize("name", ["1", "gateway-1/1/2"])
def test_a_record_has_many_names(place: Path, name: str) -> None:
    assert receipt_of(name)[0] == Path("record-1.json")


def test_the_receipts_of_a_request_are_those_of_all_its_records(place: Path) -> None:
    assert [str(path) for path in receipt_of("req-1")] == [
        "record-0.json",
        "record-0.json.tlog-proof",
        "record-1.json",
        "record-1.json.tlog-proof",
    ]
    assert run("receipt", "nobody", "--log", "log").exit_code == 2
    result = run("receipt", "req-1", "--log", "log", "--output", "mine.json")
    assert "mine-0.json" in result.stdout


@pytest.mark.parametrize("form", ["both", "proof alone", "json", "proof elsewhere"])
def test_a_receipt_of_any_form_needs_nothing_but_the_key(
    place: Path, tmp_path: Path, form: str
) -> None:
    record, proof = receipt_of(7)
    arguments: list[object] = [record]
    if form == "proof alone":
        record.unlink()
        arguments = [proof]
    elif form == "json":
        arguments = [as_json(7)]
    elif form == "proof elsewhere":
        arguments = [record, "--proof", proof.rename(tmp_path / "p")]
    result = run("verify-receipt", *arguments, "--key", "key.pem")
    assert result.exit_code == 0, result.output
    assert "proven: record 7 of weaver.test/log, in the tree of 299 records" in result.stdout
    said = json.loads(run("verify-receipt", *arguments, "--key", "key.pem", "--json").stdout)
    assert said["records"][0]["index"] == 7


def test_a_receipt_for_another_record_is_not_proven(place: Path) -> None:
    other = receipt_of(8)[0].read_bytes()
    record, proof = receipt_of(7)
    record.write_bytes(other)
    result = run("verify-receipt", record, "--key", "key.pem")
    assert result.exit_code == 1
    assert "not proven" in result.stderr
    said = as_json(7)
    said.write_text(said.read_text().replace('"index": 7', '"index": 8'))
    assert run("verify-receipt", said, "--key", "key.pem").exit_code == 1
    proof.write_text(proof.read_text().replace("index 7", "index 8"))
    result = run("verify-receipt", proof, "--key", "key.pem", "--json")
    assert (result.exit_code, json.loads(result.stdout)["proven"]) == (1, False)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("index 7", "index -7"),
        ("index 7", "index 07"),
        ("index 7\n", "index 7\n=\n"),
        ("extra ", "extra ="),
        ("\n\n", "\n"),
        ("\n299\n", "\n0299\n"),
    ],
)
def test_a_receipt_that_somebody_changed_is_a_verdict_and_no_wrong_call(
    place: Path, old: str, new: str
) -> None:
    proof = receipt_of(7)[1]
    text = proof.read_text()
    proof.write_text(text.replace(old, new, 1))
    assert proof.read_text() != text
    result = run("verify-receipt", proof, "--key", "key.pem")
    assert result.exit_code == 1
    assert "not proven" in result.stderr


def test_a_proof_that_carries_another_record_than_the_file_is_not_proven(place: Path) -> None:
    record, proof = receipt_of(7)
    mine, other = (
        base64.b64encode(path.read_bytes()).decode() for path in (record, receipt_of(8)[0])
    )
    proof.write_text(proof.read_text().replace(f"extra {mine}", f"extra {other}"))
    result = run("verify-receipt", record, "--key", "key.pem")
    assert result.exit_code == 1
    assert "carries another record" in result.stderr


def test_a_caller_checks_the_prompt_and_the_answer_of_an_exchange(place: Path) -> None:
    intent, outcome = as_json(0, commitment_key=KEYS[1].hex()), receipt_of(1)[0]
    Path("key-1.json").write_text(
        json.dumps({"index": 1, "record": {}, "commitment_key": KEYS[2].hex()})
    )
    result = run(
        "verify-receipt",
        *(intent, outcome, "--key", "key.pem", "--prompt", "prompt", "--answer", "answer"),
        *("--commitment-key", "key-1.json"),
    )
    assert result.exit_code == 0, result.output
    assert "the prompt is the one of the record (prompt_received)" in result.stdout
    assert "the answer is the one of the record (answer_sent)" in result.stdout


@pytest.mark.parametrize(
    ("record", "option", "text", "key", "message"),
    [
        (0, "--prompt", b"another", KEYS[1].hex(), "not the prompt that the record is about"),
        (0, "--prompt", PROMPT, KEYS[2].hex(), "or not its commitment key"),
        (0, "--prompt", PROMPT, "", "/v1/audit/records/0/commitment_key"),
        (1, "--prompt", PROMPT, KEYS[1].hex(), "the request's intent"),
        (0, "--answer", ANSWER, KEYS[1].hex(), "the request's outcome"),
    ],
)
def test_a_text_that_is_not_the_records_is_not_proven(  # noqa: PLR0913, PLR0917 - a table
    place: Path, record: int, option: str, text: bytes, key: str, message: str
) -> None:
    Path("text").write_bytes(text)
    proof = receipt_of(record)[1]
    given = ["--commitment-key", key] if key else []
    result = run("verify-receipt", proof, "--key", "key.pem", option, "text", *given)
    assert result.exit_code == 1
    assert message in result.stderr


@pytest.mark.parametrize("content", ["", "{}", "nonsense", '{"proof": 1}', '{"proof": "x"}'])
def test_what_is_no_receipt_is_refused_with_a_sentence(place: Path, content: str) -> None:
    Path("strange").write_text(content)
    result = run("verify-receipt", "strange", "--key", "key.pem")
    assert result.exit_code == 2
    assert "strange" in result.stderr or "receipt" in result.stderr


def test_a_proof_without_its_record_says_so(place: Path) -> None:
    record, proof = receipt_of(7)
    lines = proof.read_text().split("\n")
    proof.write_text("\n".join([lines[0], *lines[2:]]))
    assert run("verify-receipt", proof, "--key", "key.pem").exit_code == 0
    record.unlink()
    assert run("verify-receipt", proof, "--key", "key.pem").exit_code == 2
    proof.rename("bare")
    result = run("verify-receipt", "bare", "--key", "key.pem")
    assert "a proof without its record" in result.stderr


def test_a_bad_commitment_key_is_refused(place: Path) -> None:
    proof = receipt_of(0)[1]
    for given in ("zz", "key.pem", "record-0.json"):
        result = run("verify-receipt", proof, "--key", "key.pem", "--commitment-key", given)
        assert result.exit_code == 2, given


def test_a_listing_goes_on_where_a_page_ended(place: Path) -> None:
    seen: list[int] = []
    page = ""
    while True:
        result = run("list", "--log", "log", "--json", "--limit", "120", "--page", page)
        seen += [json.loads(line)["index"] for line in result.stdout.splitlines()]
        if not result.stderr:
            break
        page = result.stderr.split()[-1]
    assert seen == list(range(298, -1, -1))
    ascending = run("list", "--log", "log", "--json", "--ascending", "--limit", "2", "--page", "7")
    assert [json.loads(line)["index"] for line in ascending.stdout.splitlines()] == [8, 9]
    assert run("list", "--log", "log", "--page", "x").exit_code == 2
