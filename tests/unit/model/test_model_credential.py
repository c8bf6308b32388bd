"""A provider's key, and what puts it on the wire."""

from pathlib import Path

import pytest

from services.model.credential import Credential, CredentialError, named
from services.model.upstream import Endpoint, Limits
from tests.fakes.instant import run
from tests.fakes.wire import Canned, Wire


def test_a_rotated_key_file_takes_effect_with_the_next_call(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("sk-one\n")
    credential = Credential(path=path)
    wire = Wire(Canned(), Canned())
    endpoint = Endpoint(wire, "http://provider.test", (), Limits(), credential=credential)

    async def main() -> None:
        await endpoint.post("/x", b"{}", ())
        path.write_text("sk-two\n")
        assert credential.look()
        assert not credential.look()
        await endpoint.post("/x", b"{}", ())

    run(main())
    sent = [request.headers["authorization"] for request in wire.requests]
    assert sent == ["Bearer sk-one", "Bearer sk-two"]
    assert endpoint.clean(b"sk-one, sk-two") == b"[removed], [removed]"


def test_without_a_key_no_header_is_sent_and_azure_gets_its_own() -> None:
    wire = Wire(Canned(), Canned())

    async def main() -> None:
        await Endpoint(wire, "http://provider.test", (), Limits()).post("/x", b"{}", ())
        azure = Endpoint(
            wire,
            "http://provider.test",
            (),
            Limits(),
            credential=Credential("k"),
            key_header=named("api-key"),
            query="api-version=1",
        )
        await azure.post("/x", b"{}", ())

    run(main())
    bare, azure = wire.requests
    assert "authorization" not in bare.headers
    assert "api-key" not in bare.headers
    assert (azure.headers["api-key"], str(azure.url)) == (
        "k",
        "http://provider.test/x?api-version=1",
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"\xff", "no text"), (b"a\nb", "no header")],
)
def test_a_bad_key_file_keeps_the_last_key_and_never_shows_one(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"sk-one")
    credential = Credential(path=path)
    path.write_bytes(content)

    with pytest.raises(CredentialError, match=problem) as caught:
        credential.look()
    assert "sk-one" not in str(caught.value)
    assert credential.value == "sk-one"
    with pytest.raises(CredentialError, match="cannot read"):
        Credential(path=tmp_path / "missing")


def test_a_key_that_is_a_value_has_nothing_to_read() -> None:
    assert not Credential("sk").look()
