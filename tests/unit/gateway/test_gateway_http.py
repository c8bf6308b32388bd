"""Request headers as the gateway reads them."""

from collections.abc import Iterable

import pytest

from services.common.errors import InvalidArgument
from services.gateway.http import request_headers


class Context:
    """A call that came with these metadata."""

    def __init__(self, *metadata: tuple[str, str | bytes]) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        return self._metadata

    def peer(self) -> str:
        return ""

    def set_trailing_metadata(self, metadata: object) -> None:
        raise NotImplementedError

    async def send_initial_metadata(self, metadata: object) -> None:
        raise NotImplementedError


def test_a_header_is_looked_up_by_its_name() -> None:
    header = request_headers(Context(("x-api-key", "k"), ("a-bin", b"b")))
    assert [header(name) for name in ("x-api-key", "a-bin", "other")] == ["k", "", ""]


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
def test_two_credentials_are_refused_whichever_another_proxy_would_have_read(name: str) -> None:
    header = request_headers(Context((name, "mine"), ("x-a", "b"), (name, "somebody else's")))
    assert header("x-a") == "b"
    with pytest.raises(InvalidArgument, match="more than once") as refused:
        header(name)
    assert "mine" not in refused.value.message


def test_the_same_credential_twice_is_one() -> None:
    assert request_headers(Context(("x-api-key", "k"), ("x-api-key", "k")))("x-api-key") == "k"


def test_other_headers_that_repeat_are_one_list() -> None:
    header = request_headers(Context(("anthropic-beta", "a"), ("anthropic-beta", "b,c")))
    assert header("anthropic-beta") == "a,b,c"
