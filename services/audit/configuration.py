"""Notices that a service started with another configuration than the last time.

Each service says in its `service_started` record what its settings digest to. The log remembers
what it said before, which a service without a disk cannot, and records the change.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from services.audit.events import OwnEvents

STARTED: Final = "service_started"
_DIGEST, _SETTINGS, _SERVICE = "settings_sha256", "settings", "service"


class _Started(msgspec.Struct):
    attributes: dict[str, str] = {}


_DECODER: Final = msgspec.json.Decoder(_Started)


class Configurations:
    """The configuration that each service last started with.

    Starts that come before `remember` wait for it.

    Args:
        events: where changes are recorded.
    """

    def __init__(self, events: OwnEvents) -> None:
        """See the class."""
        self._events = events
        self._known: dict[str, Mapping[str, str]] = {}
        self._early: list[tuple[str, dict[str, str]]] | None = []

    async def remember(self, entries: Iterable[bytes]) -> None:
        """Take note of `service_started` records from before this process, oldest first."""
        for entry in entries:
            attributes = _DECODER.decode(entry).attributes
            if attributes.get(_DIGEST):
                self._known[attributes.get(_SERVICE, "")] = attributes
        early, self._early = self._early or [], None
        for service, attributes in early:
            await self.started(service, attributes)

    async def started(self, service: str, attributes: Mapping[str, str]) -> None:
        """Take note of a start; record it if the configuration is another than the last one."""
        if not attributes.get(_DIGEST):
            return
        if self._early is not None:
            self._early.append((service, dict(attributes)))
            return
        last = self._known.get(service)
        self._known[service] = dict(attributes)
        if last is None or last[_DIGEST] == attributes[_DIGEST]:
            return
        changed = {
            "service": service,
            "settings_sha256": attributes[_DIGEST],
            "previous_sha256": last[_DIGEST],
            "changed": " ".join(_differing(last, attributes)),
        }
        await self._events.record("configuration_changed", changed, tries=5)


def _differing(last: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the variables whose values differ."""
    before, after = (
        dict(part.split("=", 1) for part in said.get(_SETTINGS, "").split() if "=" in part)
        for said in (last, now)
    )
    return sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
