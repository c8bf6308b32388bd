"""What administrators send as JSON: nothing of it goes unread."""

import pytest
from google.api.httpbody_pb2 import HttpBody

from services.common.errors import InvalidArgument
from services.gateway import json_requests
from weaver.gateway.v1 import admin_service_pb2 as pb
from weaver.gateway.v1 import audit_admin_service_pb2 as audit_pb


def create(body: bytes) -> pb.CreateApiKeyRequest:
    request = pb.CreateApiKeyRequest(json=HttpBody(data=body), owner="from the query")
    json_requests.read(request)
    return request


def test_a_body_becomes_the_request() -> None:
    body = b'{"owner":"x","roles":["a","b"],"timeToLiveSeconds":"60","limits":{"burst":3}}'

    assert create(body) == pb.CreateApiKeyRequest(
        owner="x", roles=["a", "b"], time_to_live_seconds=60, limits=pb.ApiKeyLimits(burst=3)
    )


@pytest.mark.parametrize("body", [b"", b" ", b"{}"])
def test_a_body_that_says_nothing_leaves_nothing_else_standing(body: bytes) -> None:
    assert create(body) == pb.CreateApiKeyRequest()


def test_a_request_without_a_body_stays_as_it_is() -> None:
    typed, listing = pb.CreateApiKeyRequest(owner="x"), pb.ListApiKeysRequest(owner="x")
    json_requests.read(typed)
    json_requests.read(listing)
    assert (typed.owner, listing.owner) == ("x", "x")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"owner":"x","limit":{"burst":3}}', "limit"),
        (b'{"owner":"x","limits":{"bursts":3}}', "limits.bursts"),
        (b'{"owner":"x","json":{}}', "json"),
        (b'{"owner":5}', "owner"),
        (b'{"owner":"x","roles":"admin"}', "roles"),
        (b'{"owner":"x","limits":[]}', "limits"),
        (b'{"owner":"x","limits":{"burst":1e30}}', "limits"),
    ],
)
def test_bad_input_gets_a_clear_answer(body: bytes, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        create(body)
    assert [violation.field for violation in refused.value.violations] == [field]


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'{"owner":"x","owner":"y"}', b"\xff"])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgument, match="The body"):
        create(body)


@pytest.mark.parametrize("id_", ["", "key_1"])
def test_the_id_is_the_paths(id_: str) -> None:
    data = b'{"id":"%b","overlap_seconds":7}' % id_.encode()
    request = pb.RotateApiKeyRequest(id="key_1", json=HttpBody(data=data))
    json_requests.read(request)
    assert request == pb.RotateApiKeyRequest(id="key_1", overlap_seconds=7)


def test_another_id_in_the_body_is_refused() -> None:
    request = pb.RotateApiKeyRequest(id="key_1", json=HttpBody(data=b'{"id":"key_2"}'))
    with pytest.raises(InvalidArgument, match="another"):
        json_requests.read(request)


def test_numbers_of_records_are_read() -> None:
    request = audit_pb.EraseRecordsRequest(json=HttpBody(data=b'{"indexes":[1,"2"]}'))
    json_requests.read(request)
    assert [*request.indexes] == [1, 2]
