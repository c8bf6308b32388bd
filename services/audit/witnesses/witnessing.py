"""Sends checkpoints to witnesses and keeps their cosignatures, beside everything else.

All witnesses of a round are asked about the same checkpoint, since only then can their lines make a
quorum; the next round takes the newest. A witness that fails is left alone for a while, longer each
time. Nobody who appends or reads ever waits for a witness.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from services.audit.checkpoint import SignedCheckpoint
from services.audit.note import Note, NoteError, Signature, parse_note
from services.audit.witnesses.cosignature import CosignedText, cosigned_text
from services.audit.witnesses.policy import Policy, PolicyWitness
from services.audit.witnesses.vouching import MAX_AHEAD_S
from services.audit.witnesses.witness import add_checkpoint_request
from services.common.clock import Clock

ROUND_S = 10.0
"""How long a round waits for its quorum before the next one begins without it."""
REFRESH_S = 3_600.0
"""After so long the same checkpoint is cosigned anew, so that its time shows that all is well."""

_FIRST_BACKOFF_S = 1.0
_MAX_BACKOFF_S = 300.0
_MAX_TRIES = 4
_IDLE_S = 0.05
_SIZE = re.compile(rb"(0|[1-9]\d{0,18})\n?")
_OK = 200
_CONFLICT = 409


class WitnessAnswer(NamedTuple):
    """What a witness answered over HTTP."""

    status: int
    body: bytes
    retry_after_s: float = 0.0


class WitnessFailure(Exception):  # noqa: N818 - what a witness does to us
    """A witness did not cosign.

    Attributes:
        reason: one word for metrics.
        retry_after_s: what the witness asked for, if anything.
    """

    def __init__(self, reason: str, message: str, retry_after_s: float = 0.0) -> None:
        """See the class."""
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s


class WitnessTransport(Protocol):
    """Reaches one witness."""

    async def add_checkpoint(self, body: bytes) -> WitnessAnswer:
        """Send an `add-checkpoint` request, within a deadline.

        Raises:
            WitnessFailure: no answer came, or a huge one.
        """
        ...


class WitnessObserver(Protocol):
    """Is told how the witnesses are."""

    def cosigned(self, witness: str, size: int, time: int) -> None:
        """A witness cosigned a checkpoint of a size at a Unix time."""
        ...

    def witness_failed(self, witness: str, reason: str, message: str) -> None:
        """A witness did not cosign."""
        ...

    def quorum_reached(self, size: int) -> None:
        """So many records are under a checkpoint that the quorum cosigned."""
        ...


Prove = Callable[[int, int], Awaitable[Sequence[bytes]]]
"""Returns the consistency proof between two sizes of the log."""

Keep = Callable[[SignedCheckpoint, bool], Awaitable[None]]
"""Keeps a checkpoint with cosignatures; the flag says whether the quorum is met."""


@dataclass
class _State:
    """What is known of one witness."""

    witness: PolicyWitness
    transport: WitnessTransport
    old_size: int = 0
    failures: int = 0
    retry_at: float = 0.0
    cosigned_text: str = ""
    cosigned_at: float = 0.0
    busy: bool = False


@dataclass
class _Round:
    """One checkpoint, and the cosignatures that came for it."""

    signed: SignedCheckpoint
    text: CosignedText
    lines: dict[str, Signature] = field(default_factory=dict)
    quorum: asyncio.Event = field(default_factory=asyncio.Event)


class Witnessing:
    """Has the newest checkpoint cosigned, again and again.

    Args:
        policy: the witnesses and their quorum.
        transports: how each witness of the policy that has a URL is reached, by its name.
        newest: returns the newest checkpoint of the log.
        prove: returns a consistency proof.
        keep: keeps what was cosigned.
        clock: for times and waits.
        observer: is told how the witnesses are.
        interval_s: between two rounds.
    """

    def __init__(  # noqa: PLR0913 - what cosigning needs of its surroundings
        self,
        *,
        policy: Policy,
        transports: Mapping[str, WitnessTransport],
        newest: Callable[[], SignedCheckpoint | None],
        prove: Prove,
        keep: Keep,
        clock: Clock,
        observer: WitnessObserver,
        interval_s: float,
    ) -> None:
        """See the class."""
        self._policy = policy
        self._states = [
            _State(witness, transports[name])
            for name, witness in policy.witnesses.items()
            if name in transports
        ]
        self._newest = newest
        self._prove = prove
        self._keep = keep
        self._clock = clock
        self._observer = observer
        self._interval_s = interval_s
        self._round: _Round | None = None
        self._quorum_size = 0
        self._keeping = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Have rounds until cancelled."""
        try:
            while True:
                await self.have_round()
                await asyncio.sleep(max(self._interval_s, _IDLE_S))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def have_round(self) -> None:
        """Ask every witness that is free about the newest checkpoint, if it has not cosigned it."""
        signed = self._newest()
        if signed is None:
            return
        round_ = self._round
        if round_ is None or round_.text.text != signed.note.text:
            round_ = _Round(_without_cosignatures(signed), cosigned_text(signed.note))
        asked = [state for state in self._states if self._wants(state, round_)]
        if not asked:
            return
        self._round = round_
        tasks = {asyncio.create_task(self._ask(state, round_)) for state in asked}
        self._tasks |= tasks
        for task in tasks:
            task.add_done_callback(self._tasks.discard)
        everyone = asyncio.ensure_future(asyncio.wait(tasks, timeout=ROUND_S))
        quorum = asyncio.ensure_future(round_.quorum.wait())
        try:
            await asyncio.wait({everyone, quorum}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            everyone.cancel()
            quorum.cancel()
            await asyncio.gather(everyone, quorum, return_exceptions=True)

    def _wants(self, state: _State, round_: _Round) -> bool:
        now = self._clock.monotonic()
        fresh = state.cosigned_text == round_.text.text and now - state.cosigned_at < REFRESH_S
        return not state.busy and now >= state.retry_at and not fresh

    async def _ask(self, state: _State, round_: _Round) -> None:
        state.busy = True
        try:
            line = await self._cosignature(state, round_)
        except WitnessFailure as failure:
            self._failed(state, failure)
        except (OSError, ValueError) as error:  # A tile that cannot be read just now.
            self._failed(state, WitnessFailure("proof", f"no proof could be made: {error}"))
        else:
            state.failures = 0
            if line is not None:
                await self._take(state, round_, line)
        finally:
            state.busy = False

    async def _cosignature(self, state: _State, round_: _Round) -> Signature | None:
        """Return a witness's line; None when it is ahead of the round.

        Raises:
            WitnessFailure: it does not cosign.
        """
        size = round_.signed.checkpoint.size
        for _ in range(_MAX_TRIES):
            old = state.old_size
            proof = await self._prove(old, size) if 0 < old < size else []
            request = add_checkpoint_request(old, proof, round_.signed.note)
            answer = await state.transport.add_checkpoint(request)
            if answer.status == _OK:
                return self._verified(state, round_, answer.body)
            if answer.status != _CONFLICT:
                msg = f"it answered {answer.status}: {_first_line(answer.body)}"
                raise WitnessFailure(f"status_{answer.status}", msg, answer.retry_after_s)
            try:
                known = _size(answer.body)
            except WitnessFailure:
                if old < size:
                    raise
                known = old  # The protocol asks for no size where the root alone is another one.
            if known == old:
                msg = f"it knows another tree of size {known}: the log was forked"
                raise WitnessFailure("forked", msg)
            if known > size:
                self._refuse_rollback(known)
                state.old_size = known
                return None
            state.old_size = known
        msg = f"it went on answering {_CONFLICT}"
        raise WitnessFailure("conflict", msg)

    def _refuse_rollback(self, known: int) -> None:
        """Fail for a witness that is ahead of the log; it may be ahead of the round."""
        newest = self._newest()
        if newest is None or known > newest.checkpoint.size:
            msg = f"it has cosigned size {known}, which this log does not have: the log went back"
            raise WitnessFailure("rolled_back", msg)

    def _verified(self, state: _State, round_: _Round, body: bytes) -> Signature:
        """Return the good line of an answer.

        Raises:
            WitnessFailure: there is none.
        """
        key = state.witness.key
        try:
            lines = parse_note(f"{round_.text.text}\n".encode() + body).signatures
        except NoteError as error:
            raise WitnessFailure("garbage", f"its answer is no signature: {error}") from None
        for line in lines:
            if not key.owns(line):
                continue
            time = key.time_of(round_.text, line.signature)
            if not time:
                raise WitnessFailure("bad_signature", "its cosignature is wrong")
            if time > self._clock.time() + MAX_AHEAD_S:
                raise WitnessFailure("bad_time", "its cosignature is from the future")
            return line
        raise WitnessFailure("no_signature", f"its answer has no line of the key {key.name}")

    async def _take(self, state: _State, round_: _Round, line: Signature) -> None:
        size = round_.signed.checkpoint.size
        state.old_size = max(state.old_size, size)
        state.cosigned_text = round_.text.text
        state.cosigned_at = self._clock.monotonic()
        self._observer.cosigned(state.witness.name, size, int.from_bytes(line.signature[:8], "big"))
        async with self._keeping:
            round_.lines[state.witness.name] = line
            note = round_.signed.note
            known = [round_.lines[name] for name in self._policy.witnesses if name in round_.lines]
            cosigned = Note(note.text, (*note.signatures, *known))
            met = self._policy.met(round_.lines)
            try:
                await self._keep(SignedCheckpoint(round_.signed.checkpoint, cosigned), met)
            except OSError as error:
                state.cosigned_text = ""
                self._failed(state, WitnessFailure("disk", f"its line cannot be kept: {error}"))
                return
        if met:
            round_.quorum.set()
            self._quorum_size = max(self._quorum_size, size)
            self._observer.quorum_reached(self._quorum_size)

    def _failed(self, state: _State, failure: WitnessFailure) -> None:
        backoff = min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** min(state.failures, 16))
        wait = max(backoff, min(failure.retry_after_s, _MAX_BACKOFF_S))
        state.failures += 1
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 - so that logs do not come back together
        state.retry_at = self._clock.monotonic() + wait * jitter
        self._observer.witness_failed(state.witness.name, failure.reason, str(failure))


def _without_cosignatures(signed: SignedCheckpoint) -> SignedCheckpoint:
    """Return a checkpoint with the log's own lines alone."""
    origin = signed.checkpoint.origin
    own: Iterable[Signature] = (line for line in signed.note.signatures if line.name == origin)
    return SignedCheckpoint(signed.checkpoint, Note(signed.note.text, tuple(own)))


def _size(body: bytes) -> int:
    match = _SIZE.fullmatch(body)
    if match is None:
        raise WitnessFailure("garbage", f"it answered {_CONFLICT} without a size")
    return int(match[1])


def _first_line(body: bytes) -> str:
    text = body.decode(errors="replace").strip().split("\n")[0][:120]
    return "".join(character if character.isprintable() else "?" for character in text)
