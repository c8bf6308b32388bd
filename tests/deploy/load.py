"""Calls without pause while something is done to the deployment, and what became of each."""

import collections
import ssl
import threading
import time
from pathlib import Path
from typing import Any, Self

import httpx

CALL: dict[str, Any] = {
    "model": "stub-model",
    "messages": [{"role": "user", "content": "Is all well?"}],
}


class Load:
    """A few callers, each on a connection of its own, from entering the block to leaving it.

    Attributes:
        statuses: how many calls ended how: `200`, another status, or the name of an error.
        slowest_s: how long the slowest call took.
    """

    def __init__(self, url: str, ca: Path, token: str, *, callers: int = 6) -> None:
        self._url = url
        self._trust = ssl.create_default_context(cafile=str(ca))
        self._headers = {"authorization": f"Bearer {token}"}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]
        self.statuses: collections.Counter[str] = collections.Counter()
        self.bodies: list[str] = []
        self.slowest_s = 0.0

    def __enter__(self) -> Self:
        """Begin to call."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Call no more, and wait for what is under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def failed(self) -> dict[str, int]:
        """The calls that did not succeed."""
        return {status: count for status, count in self.statuses.items() if status != "200"}

    @property
    def succeeded(self) -> int:
        """The calls that did."""
        return self.statuses["200"]

    def _call(self) -> None:
        with httpx.Client(
            base_url=self._url, verify=self._trust, headers=self._headers, timeout=40
        ) as client:
            while not self._stop.is_set():
                start = time.monotonic()
                try:
                    answer = client.post("/v1/chat/completions", json=CALL)
                except httpx.HTTPError as error:
                    self.statuses[type(error).__name__] += 1
                    continue
                self.slowest_s = max(self.slowest_s, time.monotonic() - start)
                self.statuses[str(answer.status_code)] += 1
                if answer.status_code != httpx.codes.OK:
                    self.bodies.append(answer.text[:300])
                time.sleep(0.01)
