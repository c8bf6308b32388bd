"""`weaver audit receipt` and `verify-receipt`: one record and its proof."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from services.audit.archive import ArchiveError
from services.audit.note import NoteError
from services.audit.receipt import parse_receipt, verify_receipt
from services.audit.signatures import load_keys
from services.cli.audit.options import LogOption, console, reading, usage
from services.cli.audit.vouching import PolicyFile, Vouching

app = typer.Typer()


@app.command("receipt")
def receipt_command(
    index: Annotated[int, typer.Argument(min=0, help="The record's index.")],
    log: LogOption = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Write the record to FILE and the proof to FILE.tlog-proof."),
    ] = None,
) -> None:
    """Write a record and the proof that a signed checkpoint covers it."""
    with reading(log) as offline:
        entry, receipt = offline.entry(index), offline.receipt(index)
    record = output or Path(f"record-{index}.json")
    proof = record.with_name(f"{record.name}.tlog-proof")
    try:
        record.write_bytes(entry)
        proof.write_text(str(receipt))
    except OSError as error:
        usage(f"cannot write {error.filename}: {error.strerror}")
    sys.stdout.write(f"{record}\n{proof}\n")


@app.command("verify-receipt")
def verify_receipt_command(
    record: Annotated[Path, typer.Argument(help="The record's file.")],
    key: Annotated[
        Path, typer.Option("--key", help="A PEM public key, verifier keys or a key archive.")
    ],
    proof: Annotated[
        Path | None, typer.Option(help="The proof. Default: the record's name and .tlog-proof.")
    ] = None,
    policy: PolicyFile = None,
) -> None:
    """Check a receipt with nothing but a public key."""
    proof = proof or record.with_name(f"{record.name}.tlog-proof")
    try:
        entry, text, trusted = record.read_bytes(), proof.read_bytes(), load_keys(key)
    except (OSError, ArchiveError) as error:
        usage(str(error))
    try:
        receipt = parse_receipt(text.decode(errors="replace"))
        checkpoint = receipt.checkpoint.checkpoint
        signers = verify_receipt(receipt, entry, trusted.named(checkpoint.origin))
    except NoteError as error:
        sys.stderr.write(f"weaver: not proven: {error}\n")
        raise typer.Exit(1) from None
    names = " and ".join(signer.algorithm for signer in signers)
    sys.stdout.write(
        f"proven: record {receipt.index} of {checkpoint.origin}, in the tree of "
        f"{checkpoint.size} records, signed with {names}\n"
    )
    if policy is not None:
        vouching = Vouching(policy, [receipt.checkpoint])
        vouching.print(console(), checkpoint.size)
        raise typer.Exit(0 if vouching.good else 1)
