"""`weaver audit receipt` and `verify-receipt`: one record, its proof, and the texts it is about."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from services.audit.keys.archive import ArchiveError
from services.audit.keys.signatures import Keys, load_keys, outside_validity
from services.audit.note import NoteError, VerifierKey
from services.audit.receipt import DamagedReceiptError, verify_receipt
from services.audit.record import summarise
from services.audit.verification.evidence import (
    CommitmentKeys,
    Direction,
    Evidence,
    load_evidence,
    read,
)
from services.cli.audit.options import AsJSON, PlaceOption, console, usage
from services.cli.audit.places import CAFile, reading
from services.cli.audit.vouching import PolicyFile, Vouching

app = typer.Typer()

TextFile = Annotated[
    Path | None, typer.Option(help="A file with the text, byte for byte as it was sent.")
]


@app.command("receipt")
def receipt_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="The record's index, its id, or the id of a request for all of its."
        ),
    ],
    log: PlaceOption = None,
    ca: CAFile = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Write the record to FILE and the proof to FILE.tlog-proof."),
    ] = None,
) -> None:
    """Write a record and the proof that a signed checkpoint covers it.

    The proof carries the record too, so that it is a receipt by itself.
    """
    with reading(log, ca) as offline:
        indexes = offline.named(name)
        if not indexes:
            usage(f"there is no record, and no request, with the id {name}")
        found = [(offline.entry(index), offline.receipt(index)) for index in indexes]
    for entry, receipt in found:
        record = output or Path(f"record-{receipt.index}.json")
        if output is not None and len(found) > 1:
            record = output.with_name(f"{output.stem}-{receipt.index}{output.suffix}")
        proof = record.with_name(f"{record.name}.tlog-proof")
        try:
            record.write_bytes(entry)
            proof.write_text(str(replace(receipt, extra=entry)))
        except OSError as error:
            usage(f"cannot write {error.filename}: {error.strerror}")
        sys.stdout.write(f"{record}\n{proof}\n")


@app.command("verify-receipt")
def verify_receipt_command(  # noqa: PLR0913, PLR0917 - each is an option
    receipts: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="A .tlog-proof, a record's file with its proof beside it, or the front door's "
            "JSON; several for the texts of a whole exchange.",
        ),
    ],
    key: Annotated[
        Path, typer.Option("--key", help="A PEM public key, verifier keys or a key archive.")
    ],
    proof: Annotated[
        Path | None, typer.Option(help="The proof. Default: in the file, or beside it.")
    ] = None,
    prompt: TextFile = None,
    answer: TextFile = None,
    commitment_key: Annotated[
        list[str] | None,
        typer.Option(
            help="The key of a record's commitments: hexadecimal, a file, or the front door's "
            "JSON; repeatable.",
        ),
    ] = None,
    policy: PolicyFile = None,
    as_json: AsJSON = False,  # noqa: FBT002 - a flag
) -> None:
    """Check receipts, and texts, with nothing but a public key: no network, no log."""
    try:
        trusted = load_keys(key)
    except ArchiveError as error:
        usage(str(error))
    texts: dict[Direction, bytes] = {}
    keys = CommitmentKeys()
    try:
        found = [load_evidence(path, proof) for path in receipts]
        texts |= {"prompt": read(prompt)} if prompt is not None else {}
        texts |= {"answer": read(answer)} if answer is not None else {}
        for given in commitment_key or ():
            keys.add(given)
    except DamagedReceiptError as error:
        _refuse(str(error), as_json=as_json)
    except NoteError as error:
        usage(str(error))
    try:
        signers = [_prove(evidence, trusted) for evidence in found]
        bound = {way: _bind(way, text, found, keys) for way, text in texts.items()}
    except NoteError as error:
        _refuse(str(error), as_json=as_json)
    _say(found, signers, bound, as_json=as_json)
    if policy is not None:
        vouchings = [Vouching(policy, [one.receipt.checkpoint]) for one in found]
        for one, vouching in zip(found, vouchings, strict=True):
            vouching.print(console(), one.receipt.checkpoint.checkpoint.size)
        raise typer.Exit(0 if all(vouching.good for vouching in vouchings) else 1)


def _prove(evidence: Evidence, trusted: Keys) -> list[VerifierKey]:
    checkpoint = evidence.receipt.checkpoint.checkpoint
    found = verify_receipt(evidence.receipt, evidence.entry, trusted.named(checkpoint.origin))
    for key in found:
        wrong = outside_validity(trusted, key, checkpoint.size)
        if wrong:
            raise NoteError(wrong)
    return found


def _bind(way: Direction, text: bytes, found: list[Evidence], keys: CommitmentKeys) -> list[str]:
    """Return what a text was, as the records say.

    Raises:
        NoteError: no record is about this text.
    """
    candidates = [text, text.removesuffix(b"\n")] if text.endswith(b"\n") else [text]
    for candidate in candidates:
        kinds = [kind for one in found for kind in one.bound(way, candidate, keys)]
        if kinds:
            return kinds
    holding = [one for one in found if one.kinds(way)]
    if not holding:
        other = "intent" if way == "prompt" else "outcome"
        msg = f"no record here is about {_a(way)}; give the receipt of the request's {other} too"
    elif not any(keys.of(one) for one in holding):
        where = f"/v1/audit/records/{holding[0].receipt.index}/commitment_key"
        msg = f"the key of its commitments is missing: GET {where} gives it; --commitment-key"
    else:
        msg = f"this is not the {way} that the record is about, or not its commitment key"
    raise NoteError(msg)


def _a(way: Direction) -> str:
    return "a prompt" if way == "prompt" else "an answer"


def _say(
    found: list[Evidence],
    signers: list[list[VerifierKey]],
    bound: dict[Direction, list[str]],
    *,
    as_json: bool,
) -> None:
    if as_json:
        document: dict[str, Any] = {"proven": True, "records": [], "texts": bound}
        for one, by in zip(found, signers, strict=True):
            checkpoint = one.receipt.checkpoint.checkpoint
            document["records"].append(
                {
                    "origin": checkpoint.origin,
                    "index": one.receipt.index,
                    "size": checkpoint.size,
                    "type": summarise(one.entry).type,
                    "signed_by": [{"algorithm": k.algorithm, "key": k.fingerprint} for k in by],
                }
            )
        sys.stdout.write(json.dumps(document) + "\n")
        return
    for one, by in zip(found, signers, strict=True):
        checkpoint = one.receipt.checkpoint.checkpoint
        names = " and ".join(signer.algorithm for signer in by)
        sys.stdout.write(
            f"proven: record {one.receipt.index} of {checkpoint.origin}, in the tree of "
            f"{checkpoint.size} records, signed with {names}\n"
        )
    for way, kinds in bound.items():
        sys.stdout.write(f"proven: the {way} is the one of the record ({', '.join(kinds)})\n")


def _refuse(message: str, *, as_json: bool) -> NoReturn:
    if as_json:
        sys.stdout.write(json.dumps({"proven": False, "error": message}) + "\n")
    else:
        sys.stderr.write(f"weaver: not proven: {message}\n")
    raise typer.Exit(1)
