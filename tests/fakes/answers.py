"""A store in memory, and a place that counts what the cache does."""

from services.model.cache.ports import StoreGoneError


class MemoryStore:
    """Keeps everything for ever, unless it is gone."""

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}
        self.lives: list[float] = []
        self.gone = False

    async def get(self, name: bytes) -> bytes | None:
        if self.gone:
            raise StoreGoneError
        return self.kept.get(name)

    def put(self, name: bytes, value: bytes, time_to_live_s: float) -> None:
        if not self.gone:
            self.kept[name] = value
            self.lives.append(time_to_live_s)


class CacheFigures:
    """Keeps what is counted."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.kept: list[str] = []
        self.saved = 0

    def cache_asked(self, result: str) -> None:
        self.asked.append(result)

    def cache_kept(self, result: str) -> None:
        self.kept.append(result)

    def cache_saved(self, cost_micros: int) -> None:
        self.saved += cost_micros
