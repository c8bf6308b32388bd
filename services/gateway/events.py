"""What the gateway tells the audit log, in the gateway's own words.

The names are those of `weaver.audit.v1.Record`; `services.gateway.audit_client` puts them on the
wire. An event holds no text of a prompt or an answer, only commitments to them.
"""

import hashlib
import hmac
from enum import Enum

import msgspec

from services.common.randomness import random32
from services.gateway.principal import Principal

_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))
_BLOCK = 64
_HASHED_AT_ONCE = 2047


class EventType(Enum):
    """What an event is about."""

    INTENT = "intent"
    OUTCOME = "outcome"
    REFUSAL = "refusal"
    AUDIT_READ = "audit_read"
    ADMINISTRATION = "administration"
    CONFIGURATION_CHANGED = "configuration_changed"
    SERVICE_STARTED = "service_started"
    SERVICE_STOPPED = "service_stopped"
    DEGRADED_ENTERED = "degraded_entered"
    DEGRADED_LEFT = "degraded_left"


class OutcomeStatus(Enum):
    """How an admitted request ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"


class RecordId(msgspec.Struct, frozen=True):
    """The name of a record: nobody outside the suite can choose one."""

    instance: str
    epoch: int
    sequence: int


class RecordReference(msgspec.Struct, frozen=True):
    """Where a durable record stands."""

    origin: str
    index: int


class Usage(msgspec.Struct, frozen=True):
    """Tokens that a call used; see `weaver.common.v1.Usage`."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False


class LimitDecision(msgspec.Struct, frozen=True):
    """What the limiter decided, as the record keeps it."""

    verdict: str
    rule: str = ""
    policy_version: str = ""
    source: str = ""


class CaptureRule(msgspec.Struct, frozen=True):
    """Which texts are captured beside the log, and how much of each at most."""

    kinds: frozenset[str]
    max_bytes: int


class Commitments:
    """HMAC-SHA-256 commitments of one record, under a random key of its own.

    The key is what makes an erased text impossible to guess; it travels beside the record and never
    enters the log. Texts that are captured travel apart, once the record is durable.

    Args:
        capture: what is captured; None for nothing.
    """

    __slots__ = ("_capture", "_last", "key", "texts", "values")

    def __init__(self, capture: CaptureRule | None = None) -> None:
        """Draw the key."""
        self.key = random32()
        self.values: list[tuple[str, bytes]] = []
        self.texts: list[tuple[str, bytes, int]] = []
        self._capture = capture
        self._last: tuple[bytes | None, bytes] = (None, b"")

    def add(self, kind: str, text: bytes) -> None:
        """Commit to a text; `kind` is a `CommitmentKind` without its prefix."""
        last, value = self._last
        if text is not last:  # What policy left alone is committed to twice.
            value = _hmac_sha256(self.key, text)
            self._last = (text, value)
        self.values.append((kind, value))
        if self._capture is not None and kind in self._capture.kinds:
            self.texts.append((kind, text[: self._capture.max_bytes], len(text)))

    def running(self, kind: str) -> "hmac.HMAC | CapturedRun":
        """Return what a text that arrives in pieces is fed to, and given back to `end` as."""
        running = hmac.new(self.key, digestmod=hashlib.sha256)
        if self._capture is None or kind not in self._capture.kinds:
            return running
        return CapturedRun(running, self._capture.max_bytes)

    def end(self, kind: str, running: "hmac.HMAC | CapturedRun") -> None:
        """Commit to a text that arrived in pieces."""
        self.values.append((kind, running.digest()))
        if isinstance(running, CapturedRun):
            self.texts.append((kind, bytes(running.beginning), running.size))


class CapturedRun:
    """Feeds an HMAC and keeps the beginning of what it is fed.

    Args:
        running: the HMAC.
        max_bytes: how much is kept.
    """

    __slots__ = ("_max_bytes", "_running", "beginning", "size")

    def __init__(self, running: hmac.HMAC, max_bytes: int) -> None:
        """See the class."""
        self._running = running
        self._max_bytes = max_bytes
        self.beginning = bytearray()
        self.size = 0

    def update(self, piece: bytes) -> None:
        """Take the next piece."""
        self._running.update(piece)
        self.size += len(piece)
        self.beginning += piece[: self._max_bytes - len(self.beginning)]

    def digest(self) -> bytes:
        """Return the HMAC of all pieces."""
        return self._running.digest()


class Event(msgspec.Struct):
    """One event, to become one record."""

    type: EventType
    time: float
    request_id: str = ""
    client_request_id: str = ""
    principal: Principal | None = None
    source_network: str = ""
    surface: str = ""
    intent_id: RecordId | None = None
    outcome: OutcomeStatus | None = None
    reason: str = ""
    http_status: int = 0
    limit: LimitDecision | None = None
    requested_model: str = ""
    answered_model: str = ""
    provider: str = ""
    attempts: int = 0
    usage: Usage | None = None
    cost_micros: int = 0
    price_version: str = ""
    commitments: Commitments | None = None
    redactions: tuple[tuple[str, str, int], ...] = ()
    duration_s: float = 0.0
    upstream_duration_s: float = 0.0
    trace_id: str = ""
    count: int = 0
    stream: bool = False
    attributes: dict[str, str] = msgspec.field(default_factory=dict)
    id: RecordId | None = None


def _hmac_sha256(key: bytes, text: bytes) -> bytes:
    """Return HMAC-SHA-256 (RFC 2104) under a key of at most 64 bytes.

    OpenSSL's own gives up the interpreter lock, however short the text; its hash does not.
    """
    if len(text) > _HASHED_AT_ONCE - _BLOCK:
        return hmac.digest(key, text, "sha256")
    block = key.ljust(_BLOCK, b"\0")
    inner = hashlib.sha256(block.translate(_INNER) + text).digest()
    return hashlib.sha256(block.translate(_OUTER) + inner).digest()
