"""Logs for the tests of verification: written by the writer's own code, without a service."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from services.audit.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from services.audit.integration import Integrator
from services.audit.keys.archive import KeyArchive
from services.audit.keys.signatures import Keys
from services.audit.keys.signers import Signer, generate_ed25519
from services.audit.merkle import RightEdge, leaf_hash
from services.audit.ports import Entry
from services.audit.record import Record, RecordId, encode
from services.audit.tiles import TileDirectory

ORIGIN = "weaver.test/log"


@cache
def signer(name: str = "log", origin: str = ORIGIN) -> Signer:
    """Return a signer; the same name is the same key."""
    del name
    return Signer(origin, generate_ed25519())


def keys_of(*signers: Signer) -> Keys:
    """Return an archive that trusts these signers, or the usual one."""
    archive = KeyArchive(ORIGIN)
    archive.use([one.verifier for one in signers or (signer(),)], 1_700_000_000)
    return Keys(archive)


def entry(sequence: int, **fields: object) -> Entry:
    """Return a record that is different for each sequence."""
    record_id = RecordId(1, "gateway-1", sequence)
    values: dict[str, object] = {"type": "refusal", "event_time": "t", **fields}
    data = encode(Record(id=record_id, version=1, **values))  # type: ignore[arg-type]
    return Entry(data, leaf_hash(data), record_id, None)


def entries(first: int, end: int) -> list[Entry]:
    """Return the records at these indexes; the record at index 0 has the sequence 1."""
    return [entry(index + 1) for index in range(first, end)]


def write_log(
    directory: Path, batches: Sequence[Sequence[Entry]], who: Sequence[Signer] = ()
) -> Path:
    """Write a log in steps, a checkpoint after each, and return its directory."""
    log, scratch = directory / "log", directory / "scratch"
    log.mkdir(parents=True)
    scratch.mkdir()
    integrator = Integrator(
        origin=ORIGIN,
        tiles=TileDirectory(log, scratch),
        checkpoint_path=log / "checkpoint",
        signers=lambda: who or (signer(),),
        edge=RightEdge(),
        bundle=[],
    )
    for batch in batches:
        integrator.integrate(batch)
    return log


def log_of(directory: Path, *ends: int) -> Path:
    """Write a log of plain records with a checkpoint at each of these sizes."""
    starts = (0, *ends)
    return write_log(directory, [entries(*span) for span in zip(starts, ends, strict=False)])


def checkpoint_of(log: Path) -> SignedCheckpoint:
    """Return the newest checkpoint of a log."""
    return parse_signed_checkpoint((log / "checkpoint").read_bytes())
