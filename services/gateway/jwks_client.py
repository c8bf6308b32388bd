"""Fetches an issuer's keys: one GET, within a time and a size, from the address that was set.

Like all that calls out of Weaver it follows no redirect, takes no proxy from the environment and
keeps no cookie, so what is fetched is what the operator named.
"""

import asyncio
import ssl
from typing import Final

import httpx

from services.gateway.jwks import FetchError

TIMEOUT_S: Final = 5.0
MOST_BYTES: Final = 512 * 1024
_OK: Final = 200


class JWKSClient:
    """Fetches one address.

    Args:
        url: the address.
        authority: the certificate authority of its server, PEM; None for those of the system.
        timeout_s: how long one fetch may take, from the first packet to the last.
    """

    def __init__(
        self, url: str, authority: str | None = None, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        """See the class; no connection is made yet.

        Raises:
            ValueError: the certificate authority is none.
        """
        verify: ssl.SSLContext | bool = True
        if authority is not None:
            try:
                verify = ssl.create_default_context(cadata=authority)
            except (ssl.SSLError, ValueError, TypeError):
                msg = "holds no certificates in PEM"
                raise ValueError(msg) from None
        self._url = url
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            verify=verify,
            trust_env=False,
            follow_redirects=False,
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=0),
            headers={"accept": "application/json", "accept-encoding": "identity"},
        )

    async def fetch(self) -> bytes:
        """Return the document.

        Raises:
            FetchError: there is none, it is too large, or it took too long.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._get()
        except TimeoutError:
            msg = f"the issuer did not answer within {self._timeout_s:g} s"
            raise FetchError(msg) from None
        except (httpx.HTTPError, OSError) as error:
            msg = f"the issuer cannot be reached: {type(error).__name__}"
            raise FetchError(msg) from None

    async def close(self) -> None:
        """Close what is open."""
        await self._client.aclose()

    async def _get(self) -> bytes:
        async with self._client.stream("GET", self._url) as response:
            if response.has_redirect_location:
                msg = "the issuer redirects, and redirects are not followed: set the last address"
                raise FetchError(msg)
            if response.status_code != _OK:
                msg = f"the issuer answered {response.status_code}"
                raise FetchError(msg)
            if response.headers.get("content-encoding", "identity") != "identity":
                msg = "the issuer compressed its answer although it was not asked to"
                raise FetchError(msg)
            body = bytearray()
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > MOST_BYTES:
                    msg = f"the issuer's answer is larger than {MOST_BYTES} bytes"
                    raise FetchError(msg)
            return bytes(body)
