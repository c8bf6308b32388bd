"""An issuer's keys over real TLS: what is fetched, and what is not."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.gateway.jwks import FetchError
from services.gateway.jwks_client import MOST_BYTES, JWKSClient
from tests.fakes.issuer import IssuerServer
from tests.fakes.tokens import RSA_KEY


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[IssuerServer]:
    with IssuerServer(tmp_path, {"a": RSA_KEY}) as running:
        yield running


@pytest.fixture
async def client(issuer: IssuerServer) -> AsyncIterator[JWKSClient]:
    made = JWKSClient(issuer.url, issuer.authority.read_text(), timeout_s=1.0)
    yield made
    await made.close()


async def test_the_document_is_fetched(client: JWKSClient) -> None:
    assert b'"kid": "a"' in await client.fetch()
    assert b'"kid": "a"' in await client.fetch()


async def test_a_server_that_nobody_vouches_for_is_not_believed(issuer: IssuerServer) -> None:
    stranger = JWKSClient(issuer.url, timeout_s=1.0)
    with pytest.raises(FetchError, match="cannot be reached"):
        await stranger.fetch()
    await stranger.close()
    assert issuer.asked == 0


async def test_a_server_with_another_name_is_not_believed(issuer: IssuerServer) -> None:
    url = issuer.url.replace("localhost", "localhost.localdomain.")
    stranger = JWKSClient(url, issuer.authority.read_text(), timeout_s=1.0)
    with pytest.raises(FetchError):
        await stranger.fetch()
    await stranger.close()
    assert issuer.asked == 0


async def test_no_redirect_is_followed(issuer: IssuerServer, client: JWKSClient) -> None:
    issuer.location = issuer.url
    with pytest.raises(FetchError, match="redirects are not followed"):
        await client.fetch()
    assert issuer.asked == 1


@pytest.mark.parametrize("status", [204, 304, 403, 404, 500, 503])
async def test_another_status_is_no_document(
    issuer: IssuerServer, client: JWKSClient, status: int
) -> None:
    issuer.broken = (status, b"")
    with pytest.raises(FetchError, match=str(status)):
        await client.fetch()


async def test_a_huge_document_is_not_read_to_its_end(
    issuer: IssuerServer, client: JWKSClient
) -> None:
    issuer.broken = (200, b" " * (4 * MOST_BYTES))
    with pytest.raises(FetchError, match="larger than"):
        await client.fetch()


async def test_what_was_compressed_unasked_is_not_unpacked(
    issuer: IssuerServer, client: JWKSClient
) -> None:
    issuer.encoding = "gzip"
    with pytest.raises(FetchError, match="compressed"):
        await client.fetch()


async def test_a_server_that_dawdles_is_left(issuer: IssuerServer) -> None:
    issuer.delay_s = 0.5
    hasty = JWKSClient(issuer.url, issuer.authority.read_text(), timeout_s=0.1)
    start = time.monotonic()
    with pytest.raises(FetchError, match="did not answer within"):
        await hasty.fetch()
    assert time.monotonic() - start < 0.4
    await hasty.close()
    await asyncio.sleep(0.5)


async def test_a_server_that_is_gone_is_no_surprise(tmp_path: Path) -> None:
    with IssuerServer(tmp_path, {}) as issuer:
        pass
    client = JWKSClient(issuer.url, issuer.authority.read_text(), timeout_s=1.0)
    with pytest.raises(FetchError, match="cannot be reached"):
        await client.fetch()
    await client.close()


def test_an_authority_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no certificates"):
        JWKSClient("https://localhost/", "-----BEGIN NOTHING-----")
