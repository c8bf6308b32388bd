"""A witness, as C2SP tlog-witness defines it: cosigns what only grows, and never two forks.

Whatever its store has acknowledged is what the next request is held to: checking and storing are
one step for each log, so that no two requests can fork it, and nothing is signed that is not
durable first.
"""

import base64
import binascii
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol

from services.audit.merkle import EMPTY_ROOT, HASH_SIZE, verify_consistency
from services.audit.note import Note, NoteError, Signature, parse_note
from services.audit.witnesses.cosignature import CosignedText, Cosigner, cosigned_text
from services.audit.witnesses.policy import LogKey
from services.audit.witnesses.vouching import signs

MAX_REQUEST = 128 * 1024
MAX_PROOF_LINES = 63
SIZE_TYPE = "text/x.tlog.size"
TEXT_TYPE = "text/plain; charset=utf-8"

_OLD = re.compile(r"old (0|[1-9]\d{0,18})", re.ASCII)

LogKeys = Mapping[str, Sequence[LogKey]]
"""The keys of each known log, by its origin."""


class Answer(NamedTuple):
    """What goes back over HTTP."""

    status: int
    body: str
    content_type: str = TEXT_TYPE


class WitnessStore(Protocol):
    """Keeps the newest cosigned checkpoint of each log."""

    def load(self, origin: str) -> Note | None:
        """Return the newest cosigned checkpoint of a log; None when there never was one."""
        ...

    def save(self, origin: str, note: Note) -> None:
        """Keep a checkpoint, atomically and durably: it has returned, or it never happened.

        Raises:
            OSError: the disk refuses.
        """
        ...


class Refused(Exception):  # noqa: N818 - an answer, not a defect
    """A request that is not cosigned.

    Attributes:
        answer: what goes back.
    """

    def __init__(self, status: int, message: str, content_type: str = TEXT_TYPE) -> None:
        """Refuse with a status and a body."""
        super().__init__(message)
        self.answer = Answer(status, message + "\n", content_type)


class _Request(NamedTuple):
    old_size: int
    proof: list[bytes]
    note: Note
    text: CosignedText


class Witness:
    """Answers `add-checkpoint` and the monitors.

    Args:
        cosigners: the witness's own keys; each signs.
        logs: returns the keys of the known logs.
        store: what was cosigned before.
        clock: returns the Unix time.
    """

    def __init__(
        self,
        cosigners: Sequence[Cosigner],
        logs: Callable[[], LogKeys],
        store: WitnessStore,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """See the class."""
        self._cosigners = cosigners
        self._logs = logs
        self._store = store
        self._clock = clock
        self._turns: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()

    def add_checkpoint(self, body: bytes) -> Answer:
        """Cosign a checkpoint, or say why not; blocks on the disk, used from many threads.

        Raises:
            OSError: the disk refuses; nothing was signed that counts.
        """
        try:
            request = _parse_request(body)
            verified = self._verified(request)
            with self._turn(request.text.checkpoint.origin):
                lines = self._cosign(request, verified)
        except Refused as refused:
            return refused.answer
        return Answer(200, "".join(line.line for line in lines))

    def checkpoint(self, origin_hash: str) -> Answer:
        """Return the newest checkpoint that was cosigned for the log of a hash, for monitors."""
        for origin in self._logs():
            if sha256(origin.encode()).hexdigest() == origin_hash:
                note = self._store.load(origin)
                if note is not None:
                    return Answer(200, str(note))
        return Answer(404, "nothing was cosigned for that log\n")

    def status(self) -> list[tuple[str, int | None]]:
        """Return each known log and the newest size that was cosigned for it."""
        found: list[tuple[str, int | None]] = []
        for origin in self._logs():
            note = self._store.load(origin)
            size = None if note is None else cosigned_text(note).checkpoint.size
            found.append((origin, size))
        return found

    def _turn(self, origin: str) -> threading.Lock:
        with self._guard:
            return self._turns[origin]

    def _verified(self, request: _Request) -> list[Signature]:
        """Return the lines of the log's own keys, all of them good."""
        checkpoint = request.text.checkpoint
        keys = self._logs().get(checkpoint.origin)
        if keys is None:
            raise Refused(404, f"the log {checkpoint.origin} is not known here")
        good = []
        for line in request.note.signatures:
            for key in keys:
                if (line.name, line.key_id) != (key.name, key.key_id):
                    continue
                if not signs(key, request.text, line):
                    raise Refused(403, f"the signature of {key.name} is wrong")
                good.append(line)
        if not good:
            raise Refused(403, f"no known key of {checkpoint.origin} signed the checkpoint")
        return good

    def _cosign(self, request: _Request, verified: Sequence[Signature]) -> list[Signature]:
        """Check against what was cosigned last, store, sign. The caller holds the log's turn."""
        checkpoint = request.text.checkpoint
        if request.old_size > checkpoint.size:
            raise Refused(400, "the old size is larger than the checkpoint's")
        last = self._store.load(checkpoint.origin)
        size, root, earliest = 0, EMPTY_ROOT, 1
        if last is not None:
            text = cosigned_text(last)
            size, root = text.checkpoint.size, text.checkpoint.root
            times = [
                own.verifier.time_of(text, line.signature)
                for line in last.signatures
                for own in self._cosigners
                if own.verifier.owns(line)
            ]
            earliest = max((seen for seen in times if seen is not None), default=1)
        if request.old_size != size:
            raise Refused(409, str(size), SIZE_TYPE)
        if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
            raise Refused(422, "the root of size 0 is not the empty tree's")
        if size == checkpoint.size and root != checkpoint.root and not request.proof:
            raise Refused(409, str(size), SIZE_TYPE)
        if not verify_consistency(size, checkpoint.size, request.proof, root, checkpoint.root):
            raise Refused(422, f"the checkpoint is not shown to be consistent with size {size}")
        now = max(int(self._clock()), earliest)
        try:
            lines = [cosigner.cosign(request.text, now) for cosigner in self._cosigners]
        except ValueError as error:
            raise Refused(400, str(error)) from None
        self._store.save(checkpoint.origin, Note(request.note.text, (*verified, *lines)))
        return lines


def add_checkpoint_request(old_size: int, proof: Sequence[bytes], note: Note) -> bytes:
    """Return the body of an `add-checkpoint` request."""
    hashes = "".join(f"{base64.b64encode(digest).decode()}\n" for digest in proof)
    return f"old {old_size}\n{hashes}\n{note}".encode()


def _parse_request(body: bytes) -> _Request:
    if len(body) > MAX_REQUEST:
        raise Refused(413, f"a request has at most {MAX_REQUEST} bytes")
    head, separator, rest = body.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise Refused(400, "the lines before the checkpoint are not ASCII") from None
    match = _OLD.fullmatch(lines[0])
    if not separator or match is None:
        raise Refused(400, "a request begins with the line: old <size>")
    if len(lines) - 1 > MAX_PROOF_LINES:
        raise Refused(400, f"a proof has at most {MAX_PROOF_LINES} lines")
    proof = [_hash(line) for line in lines[1:]]
    try:
        note = parse_note(rest)
        return _Request(int(match[1]), proof, note, cosigned_text(note))
    except NoteError as error:
        raise Refused(400, str(error)) from None


def _hash(line: str) -> bytes:
    try:
        digest = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != HASH_SIZE or base64.b64encode(digest).decode() != line:
        raise Refused(400, f"not a hash in base64: {line[:60]!r}")
    return digest
