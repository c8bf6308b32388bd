"""What Envoy answers by itself, in the shape that the vendors' SDKs know.

`deploy/envoy/own_replies.json` says it once for each status, and for some paths; this makes the
mappers that Envoy wants: one for each dialect, the first that matches wins.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

Filter = dict[str, Any]

ERROR = 400


def mappers(table: str, headers: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return Envoy's local reply mappers.

    Args:
        table: the JSON of `own_replies.json`; its last entry also answers for every other status.
        headers: what each reply carries.
    """
    replies = json.loads(table)
    made = [_native()]
    for reply in replies:
        filters = [_status(reply["status"])]
        if "path" in reply:
            filters.append(_header(":path", safe_regex={"regex": f"{reply['path']}(\\?.*)?"}))
        made += _both(filters, reply, headers)
    return [*made, *_both([_status(ERROR, "GE")], replies[-1], headers)]


def overwriting(headers: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return headers to set, as Envoy writes them."""
    return [
        {
            "header": {"key": key, "value": value},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
        for key, value in headers.items()
    ]


def _native() -> dict[str, Any]:
    """Leave native gRPC replies as they are; a transcoded call looks native, but for one header."""
    grpc = _header("content-type", prefix="application/grpc")
    name = {"name": "x-envoy-original-path", "present_match": False}
    transcoded = {"header_filter": {"header": name}}
    return {
        "filter": {"and_filter": {"filters": [grpc, transcoded]}},
        "body_format_override": {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}},
    }


def _both(
    filters: list[Filter], reply: Mapping[str, Any], headers: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield the mapper for Anthropic's paths, then the one for all others."""
    paths = [_header(name, prefix="/v1/messages") for name in (":path", "x-envoy-original-path")]
    anthropic = {"or_filter": {"filters": paths}}
    message = reply["message"]
    yield _mapper(
        [*filters, anthropic],
        {
            "type": "error",
            "error": {"type": reply["anthropic"], "message": message},
            "request_id": "%REQ(x-request-id)%",
        },
        reply,
        headers,
    )
    error = {"message": message, "type": reply["openai"], "param": None, "code": reply["code"]}
    yield _mapper(filters, {"error": error}, reply, headers)


def _mapper(
    filters: list[Filter],
    body: Mapping[str, Any],
    reply: Mapping[str, Any],
    headers: Mapping[str, str],
) -> dict[str, Any]:
    becomes = {"status_code": reply["becomes"]} if "becomes" in reply else {}
    return {
        "filter": {"and_filter": {"filters": filters}} if len(filters) > 1 else filters[0],
        "body_format_override": {"json_format": body, "content_type": "application/json"},
        "headers_to_add": [
            # Where the head of a request cannot be read it has no id yet.
            {
                "header": {"key": "x-request-id", "value": "%UNIQUE_ID%"},
                "append_action": "ADD_IF_ABSENT",
            },
            *overwriting({**headers, **reply.get("headers", {})}),
        ],
        **becomes,
    }


def _header(name: str, **match: object) -> Filter:
    return {"header_filter": {"header": {"name": name, "string_match": match}}}


def _status(status: int, operator: str = "EQ") -> Filter:
    value = {"default_value": status, "runtime_key": "unused"}
    return {"status_code_filter": {"comparison": {"op": operator, "value": value}}}
