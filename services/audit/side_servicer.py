"""The RPCs over the side store: keys and texts for their owners, forgetting, erasing."""

import asyncio
import sqlite3
from collections.abc import Sequence
from typing import Any

import structlog

from services.audit.configuration import Configurations
from services.audit.log import Log
from services.audit.permissions import check_read
from services.audit.reader import Reader, Stored
from services.audit.record import CommitmentKind, Principal, decode
from services.audit.sidestore.commitment_keys import Erased
from services.audit.sidestore.erasure import Eraser, Order
from services.audit.sidestore.naming import Naming
from services.audit.sidestore.pseudonyms import Identity
from services.audit.sidestore.store import SideStore
from services.audit.sidestore.text_seal import open_text
from services.audit.sidestore.texts import CapturedText
from services.audit.sidestore.vault import Unreadable
from services.common.errors import InvalidArgument, NotFound, Unavailable
from services.common.peer import peer_name
from weaver.audit.v1 import audit_service_pb2 as pb
from weaver.audit.v1 import record_pb2
from weaver.common.v1 import identity_pb2

_MAX_BATCH = 1_000
_MAX_NOTE = 256
_COVER_S = 1.0

_log = structlog.get_logger()


class SideServicer:
    """Serves the side store.

    Args:
        origin: the log's name.
        log: says how many records there are.
        reader: reads them.
        store: the side store.
        naming: says whose a record is.
        eraser: carries out orders.
        configurations: what services were started with.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - its neighbours
        self,
        origin: str,
        log: Log,
        reader: Reader,
        store: SideStore,
        naming: Naming,
        eraser: Eraser,
        configurations: Configurations,
    ) -> None:
        """See the class."""
        self._origin = origin
        self._log = log
        self._reader = reader
        self._store = store
        self._naming = naming
        self._eraser = eraser
        self._configurations = configurations

    async def GetCommitmentKey(
        self, request: pb.GetCommitmentKeyRequest, context: Any
    ) -> pb.GetCommitmentKeyResponse:
        """Return the key of a record's commitments."""
        check_read(peer_name(context))
        stored = await self._owned(request)
        key = await self._key(stored)
        return pb.GetCommitmentKeyResponse(record=stored_message(stored), commitment_key=key)

    async def GetTexts(self, request: pb.GetTextsRequest, context: Any) -> pb.GetTextsResponse:
        """Return the texts that were captured for a record, opened."""
        check_read(peer_name(context))
        stored = await self._owned(request)
        key = await self._key(stored)
        try:
            texts = await asyncio.to_thread(self._texts, stored.index, key)
        except (sqlite3.Error, Unreadable) as error:
            raise _damaged(stored.index, error) from error
        return pb.GetTextsResponse(record=stored_message(stored), texts=texts)

    async def StoreTexts(
        self, request: pb.StoreTextsRequest, context: Any
    ) -> pb.StoreTextsResponse:
        """Keep captured texts."""
        check_read(peer_name(context))
        if request.origin != self._origin:
            raise InvalidArgument.of_field("origin", f"must be {self._origin}.")
        if len(request.texts) > _MAX_BATCH:
            raise InvalidArgument.of_field("texts", f"must be at most {_MAX_BATCH}.")
        texts = [self._captured(text) for text in request.texts]
        await self._settled(max((text.record for text in texts), default=-1))
        try:
            kept = await asyncio.to_thread(self._keep, texts)
        except sqlite3.Error as error:
            _log.error("audit_disk_refuses", operation="texts", error=str(error))
            msg = "The side store cannot write to its disk."
            raise Unavailable(msg, reason="AUDIT_UNAVAILABLE", retry_after_s=1.0) from error
        return pb.StoreTextsResponse(kept=kept)

    async def ForgetPrincipal(
        self, request: pb.ForgetPrincipalRequest, context: Any
    ) -> pb.ForgetPrincipalResponse:
        """Destroy what ties a principal to their records."""
        check_read(peer_name(context))
        order = await self._order(request.order)
        done = await self._eraser.forget(identity_of(request.principal, "principal"), order)
        return pb.ForgetPrincipalResponse(
            pseudonym=done.pseudonym,
            erased=done.erased,
            plain_records=done.plain_records,
            index=done.order,
        )

    async def EraseRecords(
        self, request: pb.EraseRecordsRequest, context: Any
    ) -> pb.EraseRecordsResponse:
        """Destroy the keys and texts of records."""
        check_read(peer_name(context))
        if bool(request.indexes) == request.HasField("principal"):
            msg = "must be either records or a principal."
            raise InvalidArgument.of_field("indexes, principal", msg)
        if len(request.indexes) > _MAX_BATCH:
            raise InvalidArgument.of_field("indexes", f"must be at most {_MAX_BATCH}.")
        order = await self._order(request.order)
        if request.indexes:
            erased, index = await self._eraser.erase(list(request.indexes), order)
        else:
            who = identity_of(request.principal, "principal")
            erased, index = await self._eraser.erase_of(who, order)
        return pb.EraseRecordsResponse(erased=erased, index=index)

    async def LookUpPrincipal(
        self, request: pb.LookUpPrincipalRequest, context: Any
    ) -> pb.LookUpPrincipalResponse:
        """Tell a principal's pseudonym, or a pseudonym's principal."""
        check_read(peer_name(context))
        if bool(request.pseudonym) == request.HasField("principal"):
            msg = "must be either a principal or a pseudonym."
            raise InvalidArgument.of_field("principal, pseudonym", msg)
        if request.pseudonym:
            who, pseudonym = await self._naming.reveal(request.pseudonym), request.pseudonym
        else:
            named = request.principal
            if not named.subject:
                raise InvalidArgument.of_field("principal.subject", "is missing.")
            callers = await self._naming.look_up(
                Identity(named.tenant, named.issuer, named.subject)
            )
            if len(callers) > 1:
                msg = "is shared by several principals: name the tenant and the issuer too."
                raise InvalidArgument.of_field("principal.subject", msg)
            who = callers[0].identity if callers else None
            pseudonym = callers[0].pseudonym if callers else ""
        if who is None:
            msg = "Not known under a pseudonym: they never called, or were forgotten."
            raise NotFound(msg)
        return pb.LookUpPrincipalResponse(
            principal=identity_pb2.Principal(
                tenant=who.tenant, issuer=who.issuer, subject=who.subject
            ),
            pseudonym=pseudonym,
        )

    async def _owned(self, request: Any) -> Stored:
        """Return a record, if it is the owner's that is asked for."""
        stored = await self._reader.record(request.index)
        if request.HasField("owner"):
            owner = identity_of(request.owner, "owner")
            if not await self._naming.owns(owner, stored.entry):
                raise no_such_record(stored.index)
        return stored

    async def _key(self, stored: Stored) -> bytes:
        """Return the commitment key of a record.

        Raises:
            NotFound: it never had one, or has none any more.
        """
        index = stored.index
        await self._settled(index)
        try:
            key = await asyncio.to_thread(self._store.keys.commitment_key, index)
        except Erased:
            raise _erased(index) from None
        except (Unreadable, OSError) as error:
            raise _damaged(index, error) from error
        if key is None:
            if decode(stored.entry).commitments:
                raise _damaged(index, "it is not there")
            msg = f"Record {index} has no commitments, so it has no key."
            raise NotFound(msg)
        return key

    async def _settled(self, index: int) -> None:
        """Wait until the side store has a record."""
        if index >= self._log.size:
            msg = f"The log has no record {index}; it has {self._log.size}."
            raise NotFound(msg)
        if not await self._log.wait_integrated(index + 1, _COVER_S):
            msg = "The record is too new for the side store; try again."
            raise Unavailable(msg, reason="AUDIT_UNAVAILABLE", retry_after_s=1.0)

    def _keep(self, texts: Sequence[CapturedText]) -> int:
        """Keep the texts of records that have their key."""
        kept = [text for text in texts if not self._store.keys.erased(text.record)]
        self._store.texts.put(kept)
        return len(kept)

    def _texts(self, index: int, key: bytes) -> list[pb.Text]:
        return [
            pb.Text(
                kind=record_pb2.CommitmentKind.Value(f"COMMITMENT_KIND_{text.kind.upper()}"),
                data=open_text(key, self._origin, index, text.kind, text.sealed),
                size=text.size,
                truncated=text.truncated,
            )
            for text in self._store.texts.of(index)
        ]

    @staticmethod
    def _captured(message: pb.SealedText) -> CapturedText:
        return CapturedText(
            message.index, kind_name(message.kind), message.size, message.truncated, message.sealed
        )

    async def _order(self, message: pb.Order) -> Order:
        if len(message.note) > _MAX_NOTE:
            raise InvalidArgument.of_field("order.note", f"must be at most {_MAX_NOTE} characters.")
        administrator = None
        if message.HasField("administrator"):
            who = message.administrator
            administrator = await self._naming.shown(
                Principal(who.issuer, roles=list(who.roles), subject=who.subject, tenant=who.tenant)
            )
        return Order(administrator, message.request_id, message.note)


def kind_name(number: int) -> CommitmentKind:
    """Return a commitment's kind as records write it.

    Raises:
        InvalidArgument: it is none.
    """
    names: dict[int, CommitmentKind] = {
        record_pb2.COMMITMENT_KIND_PROMPT_RECEIVED: "prompt_received",
        record_pb2.COMMITMENT_KIND_PROMPT_SENT: "prompt_sent",
        record_pb2.COMMITMENT_KIND_ANSWER_RECEIVED: "answer_received",
        record_pb2.COMMITMENT_KIND_ANSWER_SENT: "answer_sent",
    }
    name = names.get(number)
    if name is None:
        raise InvalidArgument.of_field("texts.kind", "must be one of the kinds.")
    return name


def identity_of(message: identity_pb2.Principal, field: str) -> Identity:
    """Return who a message means.

    Raises:
        InvalidArgument: it has no tenant or subject.
    """
    if not message.tenant or not message.subject:
        raise InvalidArgument.of_field(field, "needs a tenant and a subject.")
    return Identity(message.tenant, message.issuer, message.subject)


def no_such_record(index: int) -> NotFound:
    """Return the error for a record that is not the owner's."""
    return NotFound(f"There is no record {index}, or it is not yours.")


def stored_message(record: Stored) -> pb.StoredRecord:
    """Return a record on the wire."""
    return pb.StoredRecord(index=record.index, entry=record.entry)


def _erased(index: int) -> NotFound:
    msg = f"The key and texts of record {index} were erased; the record itself still verifies."
    return NotFound(msg, reason="ERASED")


def _damaged(index: int, problem: object) -> NotFound:
    _log.error("audit_side_store_unreadable", record=index, problem=str(problem))
    msg = (
        f"The side store has lost the key or texts of record {index}; "
        f"an operator may restore it from its backup."
    )
    return NotFound(msg)
