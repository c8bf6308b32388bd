"""An issuer's published keys (JWKS): fetched again and again, kept while the issuer is away.

What the issuer takes out of its set is gone here with the next fetch. A document that cannot be
read, or in which no key is left, changes nothing: an issuer that breaks must not lock everybody
out, and cannot let anybody in.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog

from services.common.clock import Clock
from services.gateway import key_ring
from services.gateway.key_ring import KeyRing
from services.gateway.strict_json import NotStrictError, read_object
from services.gateway.verification_keys import KeyRefused

SOURCE: Final = "jwks"
PATIENCE_S: Final = 3.0
"""How long a call waits for keys; fetching goes on without it."""
_JITTER: Final = 0.1

_log = structlog.get_logger()


class FetchError(Exception):
    """The document cannot be had; the message says why, without a secret."""


class Observer(Protocol):
    """Is told what becomes of keys."""

    def keys_read(self, source: str, problem: str, before: str, now: str) -> None:
        """Take note of keys that were read: `problem` is empty where they are good."""
        ...


class IssuerKeys:
    """Keeps the keys of an issuer in a ring.

    Args:
        fetch: returns the document, within a time of its own; raises `FetchError`.
        ring: where the keys go.
        clock: for intervals.
        observer: is told of changes and failures.
        refresh_s: how often keys are fetched.
        least_s: the least time between two fetches.
    """

    def __init__(  # noqa: PLR0913 - where, how often, and who is told
        self,
        fetch: Callable[[], Awaitable[bytes]],
        ring: KeyRing,
        clock: Clock,
        observer: Observer,
        *,
        refresh_s: float,
        least_s: float,
    ) -> None:
        """See the class."""
        self._fetch = fetch
        self._ring = ring
        self._clock = clock
        self._observer = observer
        self._refresh_s = refresh_s
        self._least_s = min(least_s, refresh_s)
        self._began = float("-inf")
        self._fetched = float("-inf")
        self._version = ""
        self._problem = "the issuer was not asked yet"
        self._left_out: list[str] = []
        self._under_way: asyncio.Task[None] | None = None
        self._background: asyncio.Task[None] | None = None

    @property
    def reachable(self) -> bool:
        """Whether the issuer answered with good keys when it was last asked."""
        return not self._problem

    @property
    def age_s(self) -> float:
        """How old the keys are, in seconds; infinite for none."""
        return self._clock.monotonic() - self._fetched

    async def renew(self) -> bool:
        """Fetch the keys; return whether new ones were read since this was called.

        However many ask, there is one fetch at a time and one in `least_s`.
        """
        if self._under_way is None:
            if self._clock.monotonic() - self._began < self._least_s:
                return False
            self._under_way = asyncio.create_task(self._read())
        under_way, before = self._under_way, self._fetched
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.shield(under_way)
        return self._fetched != before

    def start(self) -> None:
        """Begin to fetch in the background."""
        self._background = asyncio.create_task(self._go_on())

    async def close(self) -> None:
        """Stop fetching."""
        tasks = [task for task in (self._background, self._under_way) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _go_on(self) -> None:
        while True:
            await self.renew()
            wait_s = self._refresh_s if self.reachable else self._least_s
            # Replicas that started together need not ask together.
            await asyncio.sleep(wait_s * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 - no secret

    async def _read(self) -> None:
        self._began = self._clock.monotonic()
        before, problem = self._version, ""
        try:
            keys, left_out = key_ring.read_jwks(read_object(await self._fetch()))
            self._version = key_ring.version(keys)
            self._fetched = self._clock.monotonic()
            if self._version != before:
                self._ring.put(SOURCE, keys)
            if left_out and left_out != self._left_out:
                _log.warning("keys of the issuer are left out", problems=left_out[:10])
            self._left_out = left_out
        except FetchError as error:
            problem = str(error)
        except (KeyRefused, NotStrictError) as error:
            problem = f"what the issuer publishes {error}"
        except Exception as error:  # noqa: BLE001 - whatever it is, the next try may be better
            problem = f"the issuer's keys cannot be read: {type(error).__name__}"
        finally:
            self._under_way = None
        if problem != self._problem or self._version != before:
            self._observer.keys_read(SOURCE, problem, before, self._version)
        self._problem = problem
