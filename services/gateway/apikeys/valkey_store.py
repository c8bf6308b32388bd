"""Keys in Valkey or Redis: a string for each, a list of all, and a list of the latest changes.

Everything stands in one slot, so that a change is one script. Reading shares one connection, and
each change has one of its own, because it waits there until a replica and the disk have it.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, cast

import msgspec

from services.common.valkey import (
    Address,
    Command,
    Connection,
    StoreUnavailable,
    open_connection,
    raise_for,
)
from services.common.valkey_link import Link
from services.common.valkey_location import Location
from services.gateway.apikeys.key import FORMAT, ApiKey
from services.gateway.apikeys.ports import (
    Changes,
    KeysUnavailable,
    KeyUnreadable,
    Page,
    Written,
)

RECORD: Final = "wvk:{keys}:"
CHANGES: Final = "wvk:{keys}.changes"
INDEX: Final = "wvk:{keys}.index"
CLAIM: Final = "wvk:{keys}.told:"
PROBE: Final = "wvk:{keys}.probe"
CLAIMED_S: Final = 86_400
KEPT_CHANGES: Final = 10_000
MOST_CHANGES: Final = 500
WRITE_TIMEOUT_S: Final = 4.0
REPLICA_WAIT_MS: Final = 1_000
DISK_WAIT_MS: Final = 2_500
_SCRIPT: Final = Path(__file__).with_name("write.lua").read_bytes()
_OF_ONE_COMMAND: Final = frozenset({"ERR", "WRONGTYPE", "NOSCRIPT", "NOPERM"})


class ValkeyStore:
    """The port `KeyStore`.

    Args:
        location: where the store is.
        timeout_s: the deadline of reading.
        on_change: told when the store comes and goes, with a sentence for operators.
    """

    def __init__(
        self, location: Location, *, timeout_s: float, on_change: Callable[[bool, str], None]
    ) -> None:
        """See the class."""
        self._link = Link(
            location, timeout_s=timeout_s, prepare=_prepare, tend=_tend, on_change=on_change
        )

    async def start(self) -> None:
        """Try to connect once, then go on in the background."""
        await self._link.start()

    async def close(self) -> None:
        """Disconnect."""
        await self._link.close()

    @property
    def link(self) -> int:
        """A number that is another one for each connection to the store."""
        return self._link.made

    async def read(self, ids: Sequence[str]) -> list[ApiKey | KeysUnavailable | None]:
        """Return keys by their ids, in one round trip."""
        (found,) = await self._ask(("MGET", *(RECORD + id_ for id_ in ids)))
        return [_key(text) for text in cast("list[bytes | None]", found)]

    async def changes(self, since: int) -> Changes:
        """Return what has changed after a revision; after 0: the latest changes of all."""
        first: Command = ("ZRANGE", CHANGES, 0, 0, "WITHSCORES")
        last: Command = ("ZREVRANGE", CHANGES, 0, 0, "WITHSCORES")
        after: Command = ("ZRANGEBYSCORE", CHANGES, f"({since}", "+inf", "WITHSCORES")
        replies = await self._ask(
            first, last, ("ZCARD", CHANGES), (*after, "LIMIT", 0, MOST_CHANGES)
        )
        oldest, newest, pairs = _pairs(replies[0]), _pairs(replies[1]), _pairs(replies[3])
        if not oldest:
            return Changes((), 0, complete=since == 0)
        full = cast("int", replies[2]) >= KEPT_CHANGES
        lost = newest[0][1] < since or (full and oldest[0][1] > since)
        revision = pairs[-1][1] if pairs else newest[0][1]
        return Changes(
            tuple(id_ for id_, _ in pairs),
            revision,
            complete=since == 0 or not lost,
            more=revision < newest[0][1],
        )

    async def write(self, key: ApiKey, *, expected: int, floor: int = 0) -> Written:
        """Change a key, and wait for a replica and for the disk."""
        connection = await self._open()
        try:
            replicas, persistent = await self._standing(connection)
            done, version = cast(
                "list[int]", (await _exchange(connection, _write(key, expected, floor + 1)))[0]
            )
            if not done:
                (text,) = await _exchange(connection, ("GET", RECORD + key.id))
                now = _key(cast("bytes | None", text))
                if not isinstance(now, ApiKey):
                    msg = "the store has another version, which cannot be read"
                    raise KeysUnavailable(msg)
                return Written(now, done=False)
            confirmed = 0
            on_disk: bool | None = None
            if replicas:
                (reply,) = await _exchange(connection, ("WAIT", 1, REPLICA_WAIT_MS))
                confirmed = cast("int", reply)
            if persistent:
                with suppress(KeysUnavailable):  # Stores before 7.2 cannot say.
                    (reply,) = await _exchange(connection, ("WAITAOF", 1, 0, DISK_WAIT_MS))
                    on_disk = cast("list[int]", reply)[0] > 0
        except StoreUnavailable as error:
            raise KeysUnavailable(str(error)) from error
        finally:
            connection.close("done")
        now = msgspec.structs.replace(key, version=version)
        return Written(now, True, replicas, confirmed, on_disk)  # noqa: FBT003 - a struct takes no names cheaply

    async def put_back(self, keys: Sequence[ApiKey]) -> None:
        """Put back what the store has lost, in one round trip."""
        if keys:
            await self._ask(*(_write(key, -1, key.version) for key in keys))

    async def page(self, start: int, size: int) -> Page:
        """Return keys in the order in which they were made."""
        (found,) = await self._ask(("ZRANGE", INDEX, start, start + size))
        ids = [id_.decode() for id_ in cast("list[bytes]", found)]
        keys = await self.read(ids[:size]) if ids else []
        more = start + size if len(ids) > size else None
        return Page(tuple(key if isinstance(key, ApiKey) else None for key in keys), more)

    async def claim(self, key: ApiKey) -> bool:
        """Say whether we are the first to ask about this version of the key."""
        name = f"{CLAIM}{key.id}:{key.version}"
        (reply,) = await self._ask(("SET", name, "", "NX", "EX", CLAIMED_S))
        return reply is not None

    async def _standing(self, connection: Connection) -> tuple[int, bool]:
        """Return how many replicas the store has, and whether it writes an append-only file."""
        replies = await _exchange(connection, ("INFO", "replication"), ("INFO", "persistence"))
        text = b"".join(reply for reply in replies if isinstance(reply, bytes)).decode()
        fields = dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)
        if fields.get("role") != "master":
            if self._link.connection is not None:
                # It was the master when we came; another one may be found by now.
                self._link.connection.close("the store is a replica now")
            msg = "the store is a replica, and takes no changes"
            raise KeysUnavailable(msg)
        online = [name for name in fields if name.startswith("slave") and "online" in fields[name]]
        return len(online), fields.get("aof_enabled") == "1"

    async def _ask(self, *commands: Command) -> list[object]:
        connection = self._link.connection
        if connection is None:
            msg = "not connected"
            raise KeysUnavailable(msg)
        return await _exchange(connection, *commands)

    async def _open(self) -> Connection:
        if self._link.connection is None or self._link.address is None:
            msg = "not connected"
            raise KeysUnavailable(msg)
        try:
            return await open_connection(self._link.address, timeout_s=WRITE_TIMEOUT_S)
        except StoreUnavailable as error:
            raise KeysUnavailable(str(error)) from error


async def _exchange(connection: Connection, *commands: Command) -> list[object]:
    try:
        replies = await connection.exchange(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                code = str(reply).split(" ", 1)[0]
                if code not in _OF_ONE_COMMAND:
                    # A replica, a full or a loading store: connect anew, to one that writes.
                    connection.close(f"the store answered {code}")
                raise_for(reply)
    except StoreUnavailable as error:
        raise KeysUnavailable(str(error)) from error
    return replies


async def _prepare(connection: Connection, _: Address) -> None:
    """Take a store that takes changes: what a replica says may be old."""
    for reply in await connection.exchange([("SET", PROBE, "", "PX", 1000)]):
        if isinstance(reply, Exception):
            raise_for(reply)


async def _tend(_: Connection) -> None:
    """Leave it to those who ask for changes all the time to notice a store that hangs."""


def _pairs(reply: object) -> list[tuple[str, int]]:
    pairs = cast("list[tuple[bytes, float]]", reply)
    return [(id_.decode(), int(score)) for id_, score in pairs]


def _write(key: ApiKey, expected: int, version: int) -> Command:
    text = msgspec.json.encode(msgspec.structs.replace(key, version=0))
    keys = (RECORD + key.id, CHANGES, INDEX)
    arguments = (key.id, expected, version, text, KEPT_CHANGES, key.created)
    return ("EVAL", _SCRIPT, len(keys), *keys, *arguments)


def _key(text: bytes | None) -> ApiKey | KeysUnavailable | None:
    if text is None:
        return None
    version, _, json = text.partition(b" ")
    try:
        key = msgspec.json.decode(json, type=ApiKey)
        found = msgspec.structs.replace(key, version=int(version))
        digests = [bytes.fromhex(secret.digest) for secret in key.secrets]
    except (msgspec.DecodeError, ValueError, UnicodeDecodeError):
        return KeyUnreadable("a key cannot be read as the store has it")
    if found.format > FORMAT or not digests:
        return KeyUnreadable("a key was written by a newer gateway")
    return found
