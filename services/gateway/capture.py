"""Captured texts on their way to the side store, off the path of requests.

A text is kept once its record is durable: sealed here under a key derived from the record's
commitment key, then sent in the background. What waits is bounded; what does not fit, or cannot be
delivered, is dropped and counted, and never holds up or fails a call.
"""

import asyncio
import contextlib
import hmac
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol

import structlog
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.common.errors import InvalidArgument, NotFound, PermissionDenied
from services.gateway.events import Commitments, RecordReference

PURPOSE: Final = b"weaver captured text v1"
MAX_WAITING_BYTES = 64 * 1024 * 1024
MAX_BATCH_BYTES = 2 * 1024 * 1024
MAX_BATCH = 256
TRIES = 20
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
_FINAL = (InvalidArgument, NotFound, PermissionDenied)

KINDS: Final = {
    "none": frozenset[str](),
    "redacted": frozenset({"PROMPT_SENT", "ANSWER_SENT"}),
    "full": frozenset({"PROMPT_RECEIVED", "PROMPT_SENT", "ANSWER_RECEIVED", "ANSWER_SENT"}),
}
"""What each mode captures, by kind of commitment."""

_log = structlog.get_logger()


class SealedText(NamedTuple):
    """A captured text that is ready to leave."""

    origin: str
    record: int
    kind: str
    size: int
    truncated: bool
    sealed: bytes


Store = Callable[[Sequence[SealedText]], Awaitable[None]]


class Observer(Protocol):
    """Is told what becomes of captured texts."""

    def captured(self, texts: int) -> None:
        """Take note that so many texts are kept."""
        ...

    def dropped(self, texts: int) -> None:
        """Take note that so many texts are lost."""
        ...


class Capture:
    """Sends captured texts.

    Args:
        store: sends a batch to the side store of the log that its records are in.
        observer: is told what becomes of them.
    """

    def __init__(self, store: Store, observer: Observer) -> None:
        """See the class."""
        self._store = store
        self._observer = observer
        self._waiting: deque[SealedText] = deque()
        self._waiting_bytes = 0
        self._sender: asyncio.Task[None] | None = None

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait to be sent."""
        return self._waiting_bytes

    def take(self, record: RecordReference, commitments: Commitments) -> None:
        """Take the texts of a durable record; what does not fit is dropped."""
        for kind, text, size in commitments.texts:
            if self._waiting_bytes + len(text) > MAX_WAITING_BYTES:
                self._observer.dropped(1)
                continue
            name = kind.lower()
            sealed = seal_text(commitments.key, record.origin, record.index, name, text)
            self._waiting.append(
                SealedText(record.origin, record.index, name, size, size > len(text), sealed)
            )
            self._waiting_bytes += len(sealed)
        if self._sender is None and self._waiting:
            self._sender = asyncio.create_task(self._send_all())

    async def close(self, timeout_s: float) -> None:
        """Send what waits, for so long at most."""
        if self._sender is None:
            return
        await asyncio.wait([self._sender], timeout=timeout_s)
        if self._sender is not None:
            self._sender.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sender
        if self._waiting:
            self._observer.dropped(len(self._waiting))
            _log.error("captured texts were lost", texts=len(self._waiting))

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                batch = self._batch()
                await self._send(batch)
                for text in batch:
                    self._waiting.popleft()
                    self._waiting_bytes -= len(text.sealed)
        finally:
            self._sender = None

    def _batch(self) -> list[SealedText]:
        """Return the texts at the front that may travel together; they stay until they are sent."""
        batch: list[SealedText] = []
        size = 0
        for text in self._waiting:
            size += len(text.sealed)
            if batch and (
                size > MAX_BATCH_BYTES or len(batch) >= MAX_BATCH or text.origin != batch[0].origin
            ):
                break
            batch.append(text)
        return batch

    async def _send(self, batch: Sequence[SealedText]) -> None:
        pause_s = FIRST_PAUSE_S
        for _ in range(TRIES):
            try:
                await self._store(batch)
            except _FINAL as error:
                _log.error("the side store refused captured texts", error=str(error))
                break
            except Exception as error:  # noqa: BLE001 - whatever it is, it may pass
                _log.warning("captured texts wait", error=type(error).__name__)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            else:
                self._observer.captured(len(batch))
                return
        self._observer.dropped(len(batch))


def seal_text(commitment_key: bytes, origin: str, index: int, kind: str, text: bytes) -> bytes:
    """Return a text as the side store keeps it; `docs/design/records.md` describes the format."""
    nonce = os.urandom(12)
    cipher = AESGCM(hmac.digest(commitment_key, PURPOSE, "sha256"))
    return nonce + cipher.encrypt(nonce, text, f"{origin}\n{index}\n{kind}".encode())
