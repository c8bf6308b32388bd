"""Which keys are known here: the answer for a known key is at hand, all others are asked about.

What has been seen of a key only ever gets newer. Whatever the store says later, an older version is
not believed: it is what a store says that has lost changes, and one of them may have revoked a key.

A key that is not known costs at most one read, and all that wait ride in one: however many keys
somebody guesses, the store sees one read at a time. What was refused is remembered for a while.
"""

from collections.abc import Sequence
from typing import Final, cast

import msgspec

from services.common.batching import Batcher
from services.common.clock import Clock
from services.common.errors import ResourceExhausted, Unauthenticated, Unavailable
from services.gateway.apikeys import text
from services.gateway.apikeys.key import ApiKey
from services.gateway.apikeys.ports import KeyStore, KeysUnavailable, Observer
from services.gateway.apikeys.seen import Seen
from services.gateway.principal import Grant, Principal

READ_AT_ONCE: Final = 512
MOST_WAITING: Final = 4_096
REFUSED_FOR_S: Final = 30.0
MOST_REFUSED: Final = 10_000
NOT_VALID: Final = "The API key or token is not valid here."


class _Refused(msgspec.Struct, frozen=True):
    """What was refused lately: until when that holds, and for which version of the key."""

    until: float
    version: int
    message: str
    reason: str


class KeyCache:
    """Says whose a managed key is.

    `connected` is false while the store does not answer, and `stale` is true once that has been so
    for too long; whoever follows the store's changes sets both.

    Args:
        store: asked about what is not known.
        seen: the keys that were seen.
        observer: counts.
        clock: for what ends.
    """

    def __init__(self, store: KeyStore, seen: Seen, observer: Observer, clock: Clock) -> None:
        """See the class."""
        self.connected = False
        self.stale = False
        self._seen = seen
        self._observer = observer
        self._clock = clock
        self._store = store
        self._known: dict[bytes, Principal] = {}
        self._refused: dict[bytes, _Refused] = {}
        self._reads: Batcher[str, ApiKey | None] = Batcher(
            self._read, max_batch=READ_AT_ONCE, max_pending=MOST_WAITING
        )
        seen.on_change = self._forget

    def __len__(self) -> int:
        """Return how many keys are at hand."""
        return len(self._known)

    def known(self, digest: bytes) -> Principal | None:
        """Return whose key this is, if that is at hand; the look-up is by digest."""
        found = self._known.get(digest)
        if found is None:
            return None
        ends = cast("Grant", found.grant).expires
        return found if not ends or self._clock.time() < ends else None

    def forget_all(self) -> None:
        """Ask again about every key."""
        self._known.clear()

    async def find(self, key_text: str, digest: bytes) -> Principal:
        """Return whose key this is, asking the store.

        Raises:
            Unauthenticated: it is nobody's, disabled, expired, or mistyped.
            Unavailable: the store cannot be asked, and nothing is known of the key.
        """
        try:
            id_ = text.id_of(key_text)
        except text.MistypedKey as error:
            self._observer.looked_up("mistyped")
            msg = f"The API key is not complete or was mistyped: {error}. Copy it again, whole."
            raise Unauthenticated(msg, reason="MISTYPED_CREDENTIAL") from None
        refused = self._refused.get(digest)
        if (
            refused is not None
            and self._clock.monotonic() < refused.until
            and refused.version == self._seen.version(id_)
        ):
            self._observer.looked_up("refused_again")
            raise Unauthenticated(refused.message, reason=refused.reason)
        try:
            key = await self._asked(id_, digest)
        except (KeysUnavailable, ResourceExhausted):
            self._observer.looked_up("unavailable")
            msg = "API keys cannot be checked now. Try again."
            raise Unavailable(msg, reason="IDENTITY_UNAVAILABLE", retry_after_s=1.0) from None
        # What was read can be older by now than what has been seen since, by whoever changed it.
        seen = self._seen.key(id_)
        newest = seen if key is None or (seen and seen.version > key.version) else key
        return self._judged(newest, id_, digest)

    async def _asked(self, id_: str, digest: bytes) -> ApiKey | None:
        """Return the key as the store has it, or as it was seen while the store is gone."""
        try:
            return await self._reads.submit(id_)
        except KeysUnavailable:
            seen = None if self.stale else self._seen.key(id_)
            if seen is None or seen.matching(digest) is None:
                raise
            return seen

    def _judged(self, key: ApiKey | None, id_: str, digest: bytes) -> Principal:
        secret = None if key is None else key.matching(digest)
        if key is None or secret is None:
            raise self._refusal(id_, digest, NOT_VALID, "INVALID_CREDENTIAL", "unknown")
        now = self._clock.time()
        state = key.state(now)
        if state == "disabled":
            msg = "This API key is disabled. Ask whoever administers the keys here."
            raise self._refusal(id_, digest, msg, "DISABLED_CREDENTIAL", state)
        if state == "expired":
            msg = "This API key has expired. Ask for a new one."
            raise self._refusal(id_, digest, msg, "EXPIRED_CREDENTIAL", state)
        if secret.expired(now):
            msg = "This API key was rotated, and only its successor is accepted by now."
            raise self._refusal(id_, digest, msg, "EXPIRED_CREDENTIAL", "rotated")
        principal = key.principal(secret)
        # Of a key that was forgotten to make room nobody would tell that it changed.
        if self._seen.key(id_) is not None:
            if len(self._known) >= self._seen.most:
                del self._known[next(iter(self._known))]
            self._known[digest] = principal
        self._observer.looked_up("found")
        return principal

    def _refusal(
        self, id_: str, digest: bytes, message: str, reason: str, result: str
    ) -> Unauthenticated:
        """Remember what is refused, and return the error."""
        if len(self._refused) >= MOST_REFUSED:
            del self._refused[next(iter(self._refused))]
        until = self._clock.monotonic() + REFUSED_FOR_S
        self._refused[digest] = _Refused(until, self._seen.version(id_), message, reason)
        self._observer.looked_up(result)
        return Unauthenticated(message, reason=reason)

    async def _read(self, ids: Sequence[str]) -> list[ApiKey | Exception | None]:
        """Read keys for all who wait, each once."""
        unique = tuple(dict.fromkeys(ids))
        found = await self._store.read(unique)
        believed = dict(zip(unique, self._seen.believed(unique, found), strict=True))
        return [believed[id_] for id_ in ids]

    def _forget(self, before: ApiKey) -> None:
        """Ask again about a key that has changed."""
        for secret in before.secrets:
            self._known.pop(bytes.fromhex(secret.digest), None)
