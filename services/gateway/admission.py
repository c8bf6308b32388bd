"""How much work is let in at once, and how it is shared between callers.

    in all        calls in flight, streams too, and the bytes of their bodies
    per caller    a fixed number, where one is set
    fairness      who has something in flight leaves a part of what is free to those who have less
    in front      calls that do not wait for a provider yet: as many as the process keeps up with

What does not fit is refused at once, before anything is read or reserved for it: a queue would only
make everybody wait for answers that nobody waits for any more.

The share is that of dynamic thresholds (Choudhury and Hahne, 1998): each may hold at most so many
times what is free. One alone gets nearly all, several get equal parts, and something is always left
for somebody new. How many may be in front follows the time that they wait there (Nichols and
Jacobson, RFC 8289): a queue that stands for a whole interval is too long, one that drains is not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from services.common.clock import Clock
from services.common.errors import ResourceExhausted, Unavailable, WeaverError
from services.gateway.principal import Principal

CALLER_SHARE = 8
"""A caller holds at most so many times what is free: alone eight of nine places."""
FOR_TENANTS, TENANT_SHARE = 64, 32
"""One place in so many is kept from a tenant who holds more than so many times what is free."""
FEWEST_IN_FRONT = 64
INTERVAL_S = 0.5
LEAST_SHRINK, MOST_SHRINK, GROW = 0.8, 0.3, 1.1
PAUSE_S = 10.0
"""After so long without a call nothing that was learned holds any more."""
RETRY_S = 1.0
SHOWN_S = 10.0
"""How long after the last refusal the gateway says that it sheds load."""
CAUSES = ("total", "bytes", "share", "caller", "delay")


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a deployment lets in.

    Args:
        calls: in flight at once.
        calls_per_caller: the same for each caller; 0 for its share alone.
        body_bytes: of the requests in flight.
        delay_s: how long calls may wait in front, again and again; 0 for any time.
    """

    calls: int = 2048
    calls_per_caller: int = 0
    body_bytes: int = 512 * 1024 * 1024
    delay_s: float = 1.0


class Witness(Protocol):
    """Is told when load begins to be shed."""

    def shedding(self, cause: str) -> None:
        """Take note of it."""
        ...


class _Holder:
    """What a caller or a tenant has in flight."""

    __slots__ = ("body_bytes", "calls", "front")

    def __init__(self) -> None:
        self.calls = 0
        self.front = 0
        self.body_bytes = 0


class Place:
    """The place of one call; leave it whatever happens, once or several times."""

    __slots__ = ("_body_bytes", "_caller", "_door", "_in_front", "_key", "_taken", "_tenant")

    def __init__(
        self,
        door: "Door",
        key: tuple[str, str, str],
        caller: _Holder,
        tenant: _Holder,
        body_bytes: int,
    ) -> None:
        """See the class."""
        self._door = door
        self._key = key
        self._caller = caller
        self._tenant = tenant
        self._body_bytes = body_bytes
        self._in_front = True
        self._taken = True

    def pass_on(self, arrived: float) -> None:
        """Say that the call now waits for somebody else.

        Args:
            arrived: the monotonic time at which the call came, in seconds.
        """
        if self._in_front:
            self._in_front = False
            self._caller.front -= 1
            self._tenant.front -= 1
            self._door.passed(arrived)

    def leave(self) -> None:
        """Give the place back."""
        if self._taken:
            self._taken = False
            if self._in_front:
                self._in_front = False
                self._caller.front -= 1
                self._tenant.front -= 1
                self._door.front -= 1
            self._door.left(self._key, self._caller, self._tenant, self._body_bytes)


class Door:
    """Lets calls in, or not; used from one event loop.

    Args:
        capacity: what the deployment lets in.
        clock: for the time in front.
        jitter: a number from 0 to 1, so that those who are refused together come back apart.
        witness: is told when load begins to be shed.

    Attributes:
        calls: in flight.
        front: those of them that wait for nobody else.
        body_bytes: of their bodies.
        front_limit: how many may be in front now.
        refused: how many calls were refused, by cause.
    """

    def __init__(
        self,
        capacity: Capacity,
        clock: Clock,
        jitter: Callable[[], float] = lambda: 0.0,
        witness: Witness | None = None,
    ) -> None:
        """See the class."""
        self.calls = 0
        self.front = 0
        self.body_bytes = 0
        self.front_limit = capacity.calls
        self.refused = dict.fromkeys(CAUSES, 0)
        self._capacity = capacity
        self._clock = clock
        self._jitter = jitter
        self._witness = witness
        self._callers: dict[tuple[str, str, str], _Holder] = {}
        self._tenants: dict[str, _Holder] = {}
        self._shed_at = -SHOWN_S
        self._interval_end = 0.0
        self._least_s = 0.0
        self._most_in_front = 0

    @property
    def callers(self) -> int:
        """How many callers have something in flight."""
        return len(self._callers)

    @property
    def shedding(self) -> bool:
        """Whether load was shed in the last seconds."""
        return self._clock.monotonic() - self._shed_at < SHOWN_S

    def enter(self, principal: Principal, body_bytes: int) -> Place:
        """Give a call a place.

        Raises:
            Unavailable: the gateway has as much to do as it can, or as this caller may ask of it
                while others need room.
            ResourceExhausted: the caller has as much in flight as each caller may.
        """
        key = (principal.tenant, principal.issuer, principal.subject)
        caller = self._callers.get(key) or _Holder()
        tenant = self._tenants.get(key[0]) or _Holder()
        cause = self._obstacle(caller, tenant, body_bytes)
        if cause:
            raise self._refuse(cause)
        if not caller.calls:
            self._callers[key] = caller
            if not tenant.calls:
                self._tenants[key[0]] = tenant
        for holder in (caller, tenant, self):
            holder.calls += 1
            holder.front += 1
            holder.body_bytes += body_bytes
        self._most_in_front = max(self._most_in_front, self.front)
        return Place(self, key, caller, tenant, body_bytes)

    def passed(self, arrived: float) -> None:
        """Take note that a call has got past the front."""
        self.front -= 1
        now = self._clock.monotonic()
        waited = now - arrived
        if now >= self._interval_end:
            self._judge(now)
            self._least_s = waited
        elif waited < self._least_s:
            self._least_s = waited

    def left(
        self, key: tuple[str, str, str], caller: _Holder, tenant: _Holder, body_bytes: int
    ) -> None:
        """Take a call's place back."""
        for holder in (caller, tenant, self):
            holder.calls -= 1
            holder.body_bytes -= body_bytes
        if not caller.calls:
            del self._callers[key]
            if not tenant.calls:
                del self._tenants[key[0]]

    def _obstacle(self, caller: _Holder, tenant: _Holder, body_bytes: int) -> str:
        """Return why a call cannot be let in; "" when it can."""
        capacity = self._capacity
        free = capacity.calls - self.calls
        if free <= 0:
            return "total"
        if 0 < capacity.calls_per_caller <= caller.calls:
            return "caller"
        if not _fits(caller.calls, tenant.calls, free, capacity.calls):
            return "share"
        room = self.front_limit - self.front
        if not _fits(caller.front, tenant.front, room, self.front_limit):
            return "delay"
        left = capacity.body_bytes - self.body_bytes - body_bytes
        if self.calls and (left < 0 or caller.body_bytes > CALLER_SHARE * left):
            return "bytes"
        return ""

    def _judge(self, now: float) -> None:
        """Decide, at the end of an interval, how many may be in front in the next."""
        most, delay_s = self._capacity.calls, self._capacity.delay_s
        late_s = now - self._interval_end
        if late_s > PAUSE_S:
            self.front_limit = most
        elif late_s < INTERVAL_S and self._least_s > delay_s > 0:
            shrink = min(LEAST_SHRINK, max(MOST_SHRINK, delay_s / self._least_s))
            shrunk = int(min(self.front_limit, self._most_in_front) * shrink)
            self.front_limit = min(most, max(FEWEST_IN_FRONT, shrunk))
        else:
            self.front_limit = min(most, int(self.front_limit * GROW) + 1)
        self._interval_end = now + INTERVAL_S
        self._most_in_front = self.front

    def _refuse(self, cause: str) -> WeaverError:
        self.refused[cause] += 1
        if cause == "caller":
            msg = (
                f"You have {self._capacity.calls_per_caller} requests under way, which is as many "
                "as each caller may have here at once. Wait for one of them to end."
            )
            return ResourceExhausted(msg, retry_after_s=RETRY_S)
        if self._witness is not None and not self.shedding:
            self._witness.shedding(cause)
        self._shed_at = self._clock.monotonic()
        msg = "The gateway has as much to do as it can. Try again in a moment."
        if cause == "share":
            msg = (
                "The gateway is nearly full and most of it is yours. Try again when some of your "
                "requests have ended."
            )
        return Unavailable(msg, retry_after_s=RETRY_S * (1.0 + self._jitter()))


def _fits(caller: int, tenant: int, free: int, most: int) -> bool:
    """Return whether a caller who holds so many, of a tenant who does, may have one more.

    The last place is for a new caller, the last few are for other tenants.
    """
    if free <= 0 or (caller and caller >= CALLER_SHARE * (free - 1)):
        return False
    return free * FOR_TENANTS > most or tenant < TENANT_SHARE * free
