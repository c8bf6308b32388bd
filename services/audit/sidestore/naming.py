"""How records name callers: by themselves, or by pseudonyms; and whose a record is."""

import asyncio
import re
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import replace

import structlog

from services.audit.index import Filter
from services.audit.record import Principal, summarise
from services.audit.sidestore.pseudonyms import Caller, Identity, Pseudonyms
from services.common.errors import Unavailable

_PSEUDONYM = re.compile(r"[0-9a-f]{32}", re.ASCII)

_log = structlog.get_logger()


class Naming:
    """Answers who is who.

    Args:
        callers: the keys of pseudonyms.
        pseudonyms: whether new records show pseudonyms.
    """

    def __init__(self, callers: Pseudonyms, *, pseudonyms: bool) -> None:
        """See the class."""
        self._callers = callers
        self.cached = callers.cached
        self.pseudonyms = pseudonyms

    async def callers(
        self, identities: Iterable[tuple[str, str, str]]
    ) -> Mapping[tuple[str, str, str], Caller]:
        """Return the callers of new records; one that is not known gets a key, durably.

        Raises:
            Unavailable: the disk refuses.
        """
        found: dict[tuple[str, str, str], Caller] = {}
        missing: list[Identity] = []
        for identity in identities:
            caller = self._callers.cached(identity)
            if caller is None:
                missing.append(Identity(*identity))
            else:
                found[identity] = caller
        if missing:
            try:
                known = await asyncio.to_thread(self._callers.ensure, missing)
            except sqlite3.Error as error:
                _log.error("audit_disk_refuses", operation="pseudonyms", error=str(error))
                msg = "The audit service cannot write the keys of pseudonyms to its disk."
                raise Unavailable(msg, reason="AUDIT_UNAVAILABLE", retry_after_s=0.5) from error
            found.update(known)
        return found

    async def shown(self, principal: Principal) -> Principal:
        """Return a principal as a new record shows them.

        Raises:
            Unavailable: the disk refuses.
        """
        if not self.pseudonyms:
            return principal
        identity = (principal.tenant, principal.issuer, principal.subject)
        caller = (await self.callers([identity]))[identity]
        return Principal(
            principal.issuer,
            pseudonym=True,
            roles=principal.roles,
            subject=caller.pseudonym,
            tenant=principal.tenant,
        )

    async def owned_filter(self, wanted: Filter, owner: Identity) -> Filter:
        """Return a filter narrowed to one caller, under their subject or its pseudonym."""
        caller = await asyncio.to_thread(self._callers.get, owner)
        return replace(
            wanted,
            tenant=owner.tenant,
            issuer=owner.issuer,
            subject=owner.subject,
            pseudonyms=() if caller is None else (caller.pseudonym,),
        )

    async def named_filter(self, wanted: Filter) -> Filter:
        """Return a filter whose subject also matches its pseudonyms, and may be one itself."""
        if not wanted.subject:
            return wanted
        asked = Identity(wanted.tenant, wanted.issuer, wanted.subject)
        callers = await asyncio.to_thread(self._callers.find, asked)
        pseudonyms = [caller.pseudonym for caller in callers]
        if _PSEUDONYM.fullmatch(wanted.subject):
            pseudonyms.append(wanted.subject)
        return replace(wanted, pseudonyms=tuple(sorted(pseudonyms)))

    async def owns(self, owner: Identity, entry: bytes) -> bool:
        """Return whether a record is about a caller."""
        who = summarise(entry).principal
        if who is None or (who.tenant, who.issuer) != (owner.tenant, owner.issuer):
            return False
        if not who.pseudonym:
            return who.subject == owner.subject
        caller = await asyncio.to_thread(self._callers.get, owner)
        return caller is not None and who.subject == caller.pseudonym

    async def look_up(self, identity: Identity) -> list[Caller]:
        """Return the callers of this name; an empty tenant or issuer matches every one."""
        return await asyncio.to_thread(self._callers.find, identity)

    async def reveal(self, pseudonym: str) -> Identity | None:
        """Return who a pseudonym stands for; None when it is not known, or no longer."""
        return await asyncio.to_thread(self._callers.reveal, pseudonym)
