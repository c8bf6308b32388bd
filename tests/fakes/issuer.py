"""An issuer's server: publishes keys over https, and can break in every way."""

import contextlib
import http.server
import json
import ssl
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.fakes.tokens import jwk
from tests.integration.edge.certificates import Authority


class IssuerServer:
    """Serves `/jwks.json` at `https://localhost:<port>` from a thread.

    Attributes:
        keys: private keys by `kid`; their public halves are what is published.
        broken: answers with this status and these bytes instead; None while all is well.
        delay_s: how long it takes to answer.
        location: where it redirects to; empty for nowhere.
        encoding: what it says of the bytes; empty for nothing.
        asked: how often it was asked.
        authority: the certificate authority of its certificate, PEM.
    """

    def __init__(self, directory: Path, keys: dict[str, Any]) -> None:
        self.keys = keys
        self.broken: tuple[int, bytes] | None = None
        self.delay_s = 0.0
        self.location = ""
        self.encoding = ""
        self.asked = 0
        maker = Authority(directory)
        maker.issue("issuer", "localhost", "127.0.0.1")
        self.authority = directory / "ca.pem"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "issuer.pem", directory / "issuer-key.pem")
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://localhost:{self._server.server_address[1]}/jwks.json"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        """Begin to serve."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                time.sleep(issuer.delay_s)
                listed = [jwk(key, kid=kid, use="sig") for kid, key in issuer.keys.items()]
                status, body = issuer.broken or (200, json.dumps({"keys": listed}).encode())
                self.send_response(302 if issuer.location else status)
                if issuer.location:
                    self.send_header("location", issuer.location)
                if issuer.encoding:
                    self.send_header("content-encoding", issuer.encoding)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):  # Who asked may have heard enough.
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler
