"""Reaches witnesses over HTTP, with a deadline and a limit to everything."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from services.audit.witnesses.policy import Policy, PolicyError
from services.audit.witnesses.witnessing import WitnessAnswer, WitnessFailure, WitnessTransport

MAX_ANSWER = 64 * 1024
_CONNECT_S = 3.0
_TOTAL_S = 8.0


class HTTPWitness:
    """One witness behind a submission prefix.

    Args:
        session: makes the connections, and keeps them.
        url: the prefix; http or https.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        """See the class."""
        self._session = session
        self._url = f"{url.rstrip('/')}/add-checkpoint"

    async def add_checkpoint(self, body: bytes) -> WitnessAnswer:
        """Send an `add-checkpoint` request, within a deadline.

        Raises:
            WitnessFailure: no answer came, or a huge one.
        """
        try:
            async with self._session.post(self._url, data=body, allow_redirects=False) as response:
                data = b""
                async for chunk in response.content.iter_chunked(MAX_ANSWER):
                    data += chunk
                    if len(data) > MAX_ANSWER:
                        raise WitnessFailure("garbage", "its answer is too large")
                return WitnessAnswer(response.status, data, _seconds(response.headers))
        except TimeoutError:
            raise WitnessFailure("timeout", "it does not answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise WitnessFailure("unreachable", f"it cannot be reached: {_plain(error)}") from None


def open_session(ca: Path | None = None, total_s: float = _TOTAL_S) -> aiohttp.ClientSession:
    """Return a session for witnesses; who opens it closes it.

    Args:
        ca: trusts these certificates besides the machine's.
        total_s: how long a request may take, from the connection to the last byte.

    Raises:
        OSError: the file cannot be read, or holds no certificate (`ssl.SSLError`).
    """
    tls = ssl.create_default_context()
    if ca is not None:
        tls.load_verify_locations(ca)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=tls, limit_per_host=2),
        timeout=aiohttp.ClientTimeout(total=total_s, sock_connect=_CONNECT_S),
        headers={"Content-Type": "text/plain; charset=utf-8", "User-Agent": "weaver"},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=True,  # Egress proxies are named by the environment.
    )


def transports(policy: Policy, session: aiohttp.ClientSession) -> dict[str, WitnessTransport]:
    """Return how each witness of a policy that has a URL is reached."""
    return {
        name: HTTPWitness(session, witness.url)
        for name, witness in policy.witnesses.items()
        if witness.url
    }


def check_urls(policy: Policy) -> None:
    """Refuse URLs that are not http or https, and policies whose quorum nobody can be asked for.

    Raises:
        PolicyError: naming the witness.
    """
    for witness in policy.witnesses.values():
        if not witness.url:
            continue
        try:
            parts = urlsplit(witness.url)
            good = parts.scheme in {"http", "https"} and bool(parts.hostname)
            _ = parts.port
        except ValueError:
            good = False
        if not good or parts.query or parts.fragment:
            msg = f"the URL of the witness {witness.name} is not http(s)://host[:port][/path]"
            raise PolicyError(msg)
    if not policy.met([name for name, one in policy.witnesses.items() if one.url]):
        msg = "the witnesses that have a URL can never be a quorum"
        raise PolicyError(msg)


def _seconds(headers: Mapping[str, str]) -> float:
    value = headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdecimal() and len(value) < 6 else 0.0  # noqa: PLR2004 - about a day


def _plain(error: Exception) -> str:
    return str(error).split("\n")[0][:200] or type(error).__name__
