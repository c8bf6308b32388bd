"""How much later the first byte and each event of a stream arrive than from the provider itself."""

import http.client
import re
import ssl
import statistics
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from bench.subject import PACED, Subject
from bench.suite import CHUNKS

PAUSE_US = 2_000
_LEFT_AT = re.compile(rb'"at":(\d+)')


@dataclass
class Pace:
    """Times in milliseconds.

    Attributes:
        subject: which.
        first_ms: from the request to the first event.
        chunk_ms: from an event's leaving the provider to its arrival.
    """

    subject: str
    first_ms: float
    chunk_ms: float


def pace(subject: Subject, streams: int) -> Pace:
    """Read streams one after the other on one connection and return the medians."""
    url = urlsplit(subject.url)
    assert url.hostname is not None  # noqa: S101 - an address of ours
    connection: http.client.HTTPConnection
    if subject.ca is None:
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
    else:
        context = ssl.create_default_context(cafile=str(subject.ca))
        connection = http.client.HTTPSConnection(
            url.hostname, url.port, timeout=30, context=context
        )
    body = subject.body(PACED, f"Tell me of a loom. x-chunks:{CHUNKS} x-pause-us:{PAUSE_US}")
    firsts, delays = [], []
    for _ in range(streams):
        began = time.monotonic_ns()
        connection.request("POST", "/v1/chat/completions", body, subject.sent(PACED))
        response = connection.getresponse()
        first = 0
        while line := response.readline():
            now = time.monotonic_ns()
            if line.startswith(b"data:") and not first:
                first = now
                firsts.append((now - began) / 1e6)
            left = _LEFT_AT.search(line)
            if left is not None:
                delays.append((now - int(left[1])) / 1e6)
        assert first, "no event came"  # noqa: S101 - nothing to measure
    connection.close()
    chunk_ms = statistics.median(delays) if len(delays) >= streams * CHUNKS // 2 else float("nan")
    return Pace(subject.name, statistics.median(firsts), chunk_ms)
