"""A log that is read over HTTP: from Weaver's front door, or from any web server with a copy.

A web server lists nothing, so what is asked for follows from the checkpoint: the very files that a
log of its size has. What comes next is fetched while what came is being checked; what is held at
any time is bounded, whatever the server sends.
"""

from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from services.audit.keys.archive import ArchivedKey, KeyArchive
from services.audit.note import MAX_NOTE_SIZE, NoteError, parse_verifier_key
from services.audit.record import TOO_DEEP
from services.audit.tiles import ENTRIES, Tile, tile_at
from services.audit.verification.inventory import CHECKPOINT, WITNESSED, file_name, max_size
from services.audit.verification.sized_files import SizedFiles
from services.audit.verification.web import WebClient, WebError

FRONT_DOOR = "/v1/audit"
_WINDOW = 8
_CONNECTIONS = 6
_MAX_KEYS_SIZE = 4 * 1024 * 1024

_Found = tuple[Tile, bytes] | None


class _Key(msgspec.Struct):
    """What is read of a listed key; what follows from the key itself is not."""

    verifier_key: str
    start_time: str
    end_time: str | None = None
    start_record: int | None = None
    end_record: int | None = None
    start_size: int | None = None
    end_size: int | None = None
    accepted_until: str | None = None
    environment: str = ""
    replaces: str = ""
    endorsement: str = ""


class _Listing(msgspec.Struct):
    origin: str
    keys: list[_Key]


class RemoteLog:
    """A log below an address, as a source for verification.

    Args:
        client: the address: the front door itself, or where a log's directory is served.

    Raises:
        WebError: it cannot be reached, or there is no log.
    """

    def __init__(self, client: WebClient) -> None:
        """See the class."""
        self._client = client
        self._threads = ThreadPoolExecutor(_CONNECTIONS, "audit-fetch")
        self._root = ""
        if client.get(f"/{CHECKPOINT}", MAX_NOTE_SIZE) is None:
            self._root = FRONT_DOOR
            if client.get(f"{FRONT_DOOR}/{CHECKPOINT}", MAX_NOTE_SIZE) is None:
                raise WebError(f"{client.url}: there is no log: no checkpoint, here or below it")

    @property
    def is_service(self) -> bool:
        """Whether this is Weaver itself, not a copy of its files."""
        return bool(self._root) or self._client.url.endswith(FRONT_DOOR)

    @property
    def root(self) -> str:
        """The path of the log below the address."""
        return self._root

    def checkpoint(self) -> bytes:
        """Return the bytes of the newest checkpoint."""
        data = self._client.get(f"{self._root}/{CHECKPOINT}", MAX_NOTE_SIZE)
        if data is None:
            raise FileNotFoundError(f"{self._client.url}: the checkpoint is gone")
        return data

    def witnessed(self) -> bytes | None:
        """Return the newest checkpoint that witnesses cosigned; None when there is none.

        Raises:
            WebError: the server does not answer.
        """
        name = f"{CHECKPOINT}?witnessed=true" if self.is_service else WITNESSED
        return self._client.get(f"{self._root}/{name}", MAX_NOTE_SIZE)

    def files(self, size: int) -> "RemoteFiles":
        """Return the files that a log of a size has."""
        return RemoteFiles(self, size)

    def keys(self) -> KeyArchive:
        """Return the public keys as the server has them: no better than the server is.

        Raises:
            WebError: there are none, or they cannot be read.
        """
        path = f"{self._root}/keys" if self.is_service else ".keys"
        data = self._client.get(path, _MAX_KEYS_SIZE)
        if data is None:
            raise WebError(f"{self._client.url}{path}: there are no keys; give yours with --keys")
        try:
            return parse_listing(data)
        except (NoteError, ValueError) as error:
            raise WebError(f"{self._client.url}{path}: {error}") from None

    def fetch(self, tile: Tile) -> _Found:
        """Return a tile, or the full one that took its place."""
        for candidate in dict.fromkeys((tile, tile.full)):
            path = f"{self._root}/{file_name(candidate)}"
            data = self._client.get(path, max_size(candidate))
            if data is not None:
                return candidate, data
        return None

    def later(self, tile: Tile) -> "Future[_Found]":
        """Begin to fetch a tile."""
        return self._threads.submit(self.fetch, tile)

    def close(self) -> None:
        """Let go of the connections; what is still being fetched is of no use to anybody."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class RemoteFiles(SizedFiles):
    """The files of a log of one size; those that follow are fetched ahead.

    Args:
        log: where they come from.
        size: the log's.
    """

    def __init__(self, log: RemoteLog, size: int) -> None:
        """See the class."""
        super().__init__(size, log.fetch)
        self._log = log
        self._coming: dict[Tile, Future[_Found]] = {}

    def widest(self, level: int, number: int) -> _Found:
        """Return a tile, and begin to fetch those that follow it."""
        coming = self._coming.pop(tile_at(level, number, self._size), None)
        if level in {ENTRIES, 0}:
            for following in range(number + 1, number + 1 + _WINDOW):
                self._begin(tile_at(level, following, self._size))
        return super().widest(level, number) if coming is None else coming.result()

    def _begin(self, tile: Tile) -> None:
        if tile.width and tile not in self._coming:
            self._coming[tile] = self._log.later(tile)


def parse_listing(data: bytes) -> KeyArchive:
    """Return the archive in a key archive's file, or in what the front door says of its keys.

    Raises:
        ValueError: it is neither, or a key is damaged.
    """
    try:
        listing = msgspec.json.decode(data, type=_Listing)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    keys = []
    for listed in listing.keys:
        key = parse_verifier_key(listed.verifier_key)
        rest = {name: getattr(listed, name) for name in listed.__struct_fields__[2:]}
        keys.append(
            ArchivedKey(
                str(key), key.algorithm, key.fingerprint, key.pem, listed.start_time, **rest
            )
        )
    return KeyArchive(listing.origin, keys)
