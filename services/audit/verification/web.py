"""Gets files from a web server: few lines of HTTP, for a log that is read over the network.

Connections are kept, one a thread. What may pass is tried again, with growing pauses; a server that
asks to wait (429, 503) is obeyed. No answer is read further than what was asked for can be long,
and no credential is sent over a connection that others can read.
"""

import http.client
import ssl
import threading
import time
import zlib
from urllib.parse import urlsplit

_TRIES = 6
_FIRST_PAUSE_S = 0.25
_MAX_PAUSE_S = 30.0
_TIMEOUT_S = 30.0
_DEADLINE_S = 120.0
_PATIENCE_S = 900.0
_CHUNK = 65_536
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_REFUSED = frozenset({401, 403})
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class WebError(OSError):
    """What was asked for cannot be had; the message is for people."""


class WebClient:
    """Gets what lies below one address.

    Args:
        url: the address, `http` or `https`.
        credential: sent as a bearer token; empty for none.
        trust: which certificates are believed; None for those of this machine.

    Raises:
        WebError: the address is none, or the credential would travel in the clear.
    """

    def __init__(
        self, url: str, *, credential: str = "", trust: ssl.SSLContext | None = None
    ) -> None:
        """See the class."""
        parts = urlsplit(url)
        try:
            self._port = parts.port
        except ValueError:
            raise WebError(f"{url}: the port is not a number") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise WebError(f"{url}: not an http or https address")
        if parts.query or parts.fragment or parts.username is not None:
            raise WebError("the address must have no query, fragment or credential in it")
        if not (credential.isascii() and credential.isprintable()):
            raise WebError("the credential has a character that no credential has")
        if credential and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise WebError(f"{url}: a credential is not sent in the clear; use https")
        self.url = url.rstrip("/")
        self._host = parts.hostname
        self._path = parts.path.rstrip("/")
        self._trust = None
        if parts.scheme == "https":
            self._trust = trust or ssl.create_default_context()
        self._headers = {"accept-encoding": "gzip, identity", "user-agent": "weaver-audit"}
        if credential:
            self._headers["authorization"] = f"Bearer {credential}"
        self._local = threading.local()

    def get(self, path: str, limit: int) -> bytes | None:
        """Return what lies at a path below the address; None when there is nothing.

        Args:
            path: begins with a slash, or is empty.
            limit: at most one byte more than this is read.

        Raises:
            WebError: it cannot be had.
        """
        give_up = time.monotonic() + _PATIENCE_S
        pause_s = _FIRST_PAUSE_S
        tries = 0
        while True:
            tries += 1
            wait_s = pause_s
            try:
                status, retry_s, body = self._ask(path, limit)
            except ssl.SSLCertVerificationError as error:
                msg = (
                    f"{self.url}: its certificate is not trusted: {error.verify_message}. "
                    "Name the authority that issued it with --ca."
                )
                raise WebError(msg) from None
            except (OSError, http.client.HTTPException, zlib.error) as error:
                self._drop()
                problem = f"{type(error).__name__}: {error}"
            else:
                if status not in _BUSY:
                    return self._judge(path, status, body)
                problem = f"it answers {status}"
                if retry_s is not None:
                    wait_s = max(0.05, retry_s)
                    tries -= status == http.client.TOO_MANY_REQUESTS
            if tries >= _TRIES or time.monotonic() + wait_s > give_up:
                raise WebError(f"{self.url}{path}: {problem} (tried {tries} times)")
            time.sleep(min(wait_s, _MAX_PAUSE_S))
            pause_s = min(pause_s * 2, _MAX_PAUSE_S)

    def _judge(self, path: str, status: int, body: bytes) -> bytes | None:
        if status == http.client.OK:
            return body
        if status in {http.client.NOT_FOUND, http.client.GONE}:
            return None
        if status in _REFUSED:
            msg = (
                f"{self.url}{path}: refused ({status}). Put a credential with the role "
                "`auditor` into WEAVER_API_KEY."
            )
            raise WebError(msg)
        raise WebError(f"{self.url}{path}: it answers {status}")

    def _ask(self, path: str, limit: int) -> tuple[int, float | None, bytes]:
        connection = self._connection()
        connection.request("GET", f"{self._path}{path}", headers=self._headers)
        response = connection.getresponse()
        body = self._read(response, limit)
        if not response.isclosed():
            self._drop()  # More was to come than can be right.
        retry = response.headers.get("retry-after", "")
        return response.status, float(retry) if retry.isdecimal() else None, body

    def _read(self, response: http.client.HTTPResponse, limit: int) -> bytes:
        deadline = time.monotonic() + _DEADLINE_S
        parts: list[bytes] = []
        length = 0
        unpack = None
        if response.headers.get("content-encoding", "") == "gzip":
            unpack = zlib.decompressobj(wbits=31)
        while length <= limit:
            part = response.read1(_CHUNK)
            if not part:
                break
            if unpack is not None:
                part = unpack.decompress(part, limit + 1 - length)
            parts.append(part)
            length += len(part)
            if time.monotonic() > deadline:
                raise TimeoutError(f"the answer takes over {_DEADLINE_S:.0f} s")
        return b"".join(parts)[: limit + 1]

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            if self._trust is not None:
                connection = http.client.HTTPSConnection(
                    self._host, self._port, timeout=_TIMEOUT_S, context=self._trust
                )
            else:
                connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
            self._local.connection = connection
        return connection

    def _drop(self) -> None:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None
