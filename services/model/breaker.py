"""A circuit breaker: a target that keeps failing rests, and is probed before it serves again.

Three things open it: many failures in a row, a bad share of the recent tries, or a share far above
that of the targets beside it (an outlier). It opens for longer each time that it opens again soon.
When the time is over, one call at a time goes through as a probe: its success closes the breaker,
its failure opens it again. What the caller did wrong, or left, says nothing of the target.
"""

from collections.abc import Callable, Iterable
from enum import Enum

import msgspec

_HEALS_AFTER = 4
"""So many opening times after it closed, a breaker has forgotten how often it opened."""


class State(Enum):
    """Whether calls pass."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerPolicy(msgspec.Struct, frozen=True):
    """When a target rests, and how long.

    Args:
        failures: in a row that open it; 0 switches the breaker off.
        share: of the tries in the window that opens it when they fail.
        outlier: how far a share of failures must lie above its neighbours' to open it.
        volume: tries in the window before a share counts.
        window_s: how far back tries count.
        open_s: how long it opens at first; each time soon after doubles it.
        longest_open_s: the longest that it opens.
    """

    failures: int = 10
    share: float = 0.5
    outlier: float = 0.25
    volume: int = 20
    window_s: float = 30.0
    open_s: float = 2.0
    longest_open_s: float = 60.0


def _ignore(_: State, __: str) -> None:
    """Tell nobody."""


class Breaker:
    """The breaker of one target. Times are monotonic seconds.

    Args:
        policy: when it opens.
    """

    def __init__(self, policy: BreakerPolicy | None = None) -> None:
        """Begin closed."""
        self.policy = policy or BreakerPolicy()
        self.on_change: Callable[[State, str], None] = _ignore
        """Is told of a new state, with the reason for opening."""
        self._state = State.CLOSED
        self._streak = 0
        self._bucket = 0.0
        self._now = [0, 0]
        self._before = [0, 0]
        self._until = 0.0
        self._opened = 0
        self._closed_at = 0.0
        self._probing = False
        self._cool_until = 0.0

    def state(self, now: float) -> State:
        """Return how it stands; an open one whose time is over is half open."""
        if self._state is State.OPEN and now >= self._until:
            return State.HALF_OPEN
        return self._state

    def ready(self, now: float) -> bool:
        """Return whether a call would pass, and the target did not ask for patience."""
        if now < self._cool_until:
            return False
        return self._state is State.CLOSED or (now >= self._until and not self._probing)

    def admit(self, now: float) -> bool:
        """Return whether a call may pass; after True exactly one of the verdicts below is owed."""
        if self._state is State.CLOSED:
            return True
        if now < self._until or self._probing:
            return False
        if self._state is State.OPEN:
            self._state = State.HALF_OPEN
            self.on_change(State.HALF_OPEN, "")
        self._probing = True
        return True

    def wait_s(self, now: float) -> float:
        """Return how long until a probe may pass; at least a tenth of a second while it waits."""
        return 0.0 if self._state is State.CLOSED else max(0.1, self._until - now)

    def succeeded(self, now: float) -> None:
        """Take note that the target answered, be it with a refusal of the request."""
        self._streak = 0
        self._count(now, 0)
        if self._state is not State.CLOSED:
            self._state = State.CLOSED
            self._probing = False
            self._closed_at = now
            self._now, self._before = [0, 0], [0, 0]
            self.on_change(State.CLOSED, "")

    def failed(self, now: float, beside: Iterable["Breaker"] = ()) -> None:
        """Take note that the target failed, and open if that is enough.

        Args:
            now: monotonic seconds.
            beside: the breakers of the targets that serve the same callers.
        """
        self._streak += 1
        self._count(now, 1)
        self._probing = False
        if self._state is not State.CLOSED:
            self._open(now, "the probe failed")
        elif self.policy.failures:
            reason = self._reason(now, beside)
            if reason:
                self._open(now, reason)

    def withdrawn(self) -> None:
        """Take note that a call ended without saying anything of the target."""
        self._probing = False

    def cool(self, now: float, wait_s: float) -> None:
        """Prefer other targets for so long: this one asked for patience."""
        self._cool_until = max(self._cool_until, now + min(wait_s, self.policy.longest_open_s))

    def share(self, now: float) -> tuple[float, int]:
        """Return the share of failures in the window, and of how many tries."""
        self._turn(now)
        bad = self._now[1] + self._before[1]
        every = bad + self._now[0] + self._before[0]
        return (bad / every if every else 0.0), every

    def _reason(self, now: float, beside: Iterable["Breaker"]) -> str:
        policy = self.policy
        if self._streak >= policy.failures:
            return f"{self._streak} failures in a row"
        own, volume = self.share(now)
        if volume < policy.volume:
            return ""
        if own >= policy.share:
            return f"{own:.0%} of {volume} tries failed"
        others = [
            share
            for share, count in (other.share(now) for other in beside if other is not self)
            if count >= policy.volume
        ]
        usual = sum(others) / len(others) if others else own
        if own - usual >= policy.outlier:
            return f"{own:.0%} of {volume} tries failed, {usual:.0%} beside it"
        return ""

    def _open(self, now: float, reason: str) -> None:
        policy = self.policy
        if now - self._closed_at > _HEALS_AFTER * policy.longest_open_s:
            self._opened = 0
        if self._state is State.HALF_OPEN or self._state is State.CLOSED:
            self._opened += 1
        wait_s = min(policy.open_s * 2 ** min(self._opened - 1, 16), policy.longest_open_s)
        self._until = now + wait_s
        changed = self._state is not State.OPEN
        self._state = State.OPEN
        self._streak = 0
        if changed:
            self.on_change(State.OPEN, reason)

    def _count(self, now: float, kind: int) -> None:
        self._turn(now)
        self._now[kind] += 1

    def _turn(self, now: float) -> None:
        """Drop what is older than the window, half a window at a time."""
        half = self.policy.window_s / 2
        if now - self._bucket >= half:
            self._before = self._now if now - self._bucket < 2 * half else [0, 0]
            self._now = [0, 0]
            self._bucket = now
