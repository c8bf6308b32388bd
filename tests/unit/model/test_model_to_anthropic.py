"""OpenAI's chat completions at Anthropic: what maps, what is left out, what is refused."""

import json
from typing import Any

import msgspec
import pytest

from services.common.errors import InvalidArgument
from services.model.call import Call, Facts, Usage
from services.model.dialects.to_anthropic import ToAnthropic
from services.model.failure import ProviderError
from tests.fakes.dialects import (
    ANTHROPIC_MESSAGE,
    PNG,
    SCHEMA,
    answered,
    asked,
    completion_of,
    data,
    retold,
    streamed,
)
from tests.fakes.recordings import anthropic_stream

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
BASE: dict[str, Any] = {"model": "m", "messages": HELLO}
FACTS = Facts("claude-test", "tool_use", Usage(22, 20, 7, 5, 4))
TURN = [{"type": "text", "text": "Hello"}]


def call(**fields: Any) -> Call:
    return asked(BASE | fields)


def request(**fields: Any) -> dict[str, Any]:
    return retold(ToAnthropic(), call(**fields))[0]


def refusal(**fields: Any) -> str:
    with pytest.raises(ProviderError) as caught:
        request(**fields)
    assert caught.value.elsewhere
    assert isinstance(caught.value.error, InvalidArgument)
    return caught.value.error.violations[0].field


def tool_call(identifier: str, arguments: str) -> dict[str, Any]:
    function = {"name": "w", "arguments": arguments}
    return {"id": identifier, "type": "function", "function": function}


def test_a_conversation_maps() -> None:
    found, left_out = retold(
        ToAnthropic(),
        call(
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
                {"role": "user", "content": "Weather?", "name": "ada"},
                {
                    "role": "assistant",
                    "content": "Looking.",
                    "refusal": None,
                    "reasoning_content": "hm",
                    "thinking_blocks": [
                        {"type": "thinking", "thinking": "hm", "signature": "s"},
                        {"type": "redacted_thinking", "data": "d"},
                    ],
                    "tool_calls": [tool_call("a", '{"city":"Ulm"}'), tool_call("b", "")],
                },
                {"role": "tool", "tool_call_id": "a", "content": "sun"},
                {
                    "role": "tool",
                    "tool_call_id": "b",
                    "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}],
                },
                {"role": "tool", "tool_call_id": "c", "content": ""},
                {"role": "user", "content": "So?"},
            ],
            max_tokens=100,
            max_completion_tokens=50,
            temperature=0.5,
            top_p=0.9,
            stop="END",
            stream=True,
            stream_options={"include_usage": True},
            user="u-1",
            n=1,
            logprobs=False,
            presence_penalty=0,
            frequency_penalty=0.0,
            logit_bias={},
            store=False,
            modalities=["text"],
            metadata={"a": "b"},
            prompt_cache_key="k",
            tools=[
                {
                    "type": "function",
                    "function": {
                        "name": "w",
                        "description": "Weather",
                        "parameters": SCHEMA,
                        "strict": True,
                    },
                },
                {"type": "function", "function": {"name": "now"}},
            ],
            tool_choice="required",
            parallel_tool_calls=False,
            service_tier="default",
            reasoning_effort="high",
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "city", "schema": SCHEMA, "strict": True},
            },
        ),
    )
    assert left_out == {"name", "metadata", "prompt_cache_key"}
    assert found == {
        "model": "m",
        "max_tokens": 50,
        "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "redacted_thinking", "data": "d"},
                    {"type": "text", "text": "Looking."},
                    {"type": "tool_use", "id": "a", "name": "w", "input": {"city": "Ulm"}},
                    {"type": "tool_use", "id": "b", "name": "w", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": "sun"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "b",
                        "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}],
                    },
                    {"type": "tool_result", "tool_use_id": "c"},
                    {"type": "text", "text": "So?"},
                ],
            },
        ],
        "temperature": 0.5,
        "top_p": 0.9,
        "stop_sequences": ["END"],
        "stream": True,
        "tools": [
            {"name": "w", "description": "Weather", "input_schema": SCHEMA, "strict": True},
            {"name": "now", "input_schema": {"type": "object", "properties": {}}},
        ],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "metadata": {"user_id": "u-1"},
        "service_tier": "standard_only",
        "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": SCHEMA}},
    }


def test_images_and_files_map() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "image_url", "image_url": {"url": "https://x.test/a.png", "detail": "low"}},
        {
            "type": "file",
            "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
        },
        {"type": "file", "file": {"file_data": "data:text/plain;base64,w7w="}},
    ]
    found, left_out = retold(ToAnthropic(), call(messages=[{"role": "user", "content": parts}]))
    assert left_out == {"detail"}
    assert found["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
            "title": "a.pdf",
        },
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "ü"}},
    ]


def test_an_answer_is_given_a_limit_that_nobody_named() -> None:
    assert request()["max_tokens"] == 4096
    bounded = msgspec.structs.replace(call(), max_output_tokens=77)
    assert retold(ToAnthropic(), bounded)[0]["max_tokens"] == 77


@pytest.mark.parametrize(
    ("fields", "name", "expected"),
    [
        ({"tool_choice": "none"}, "tool_choice", {"type": "none"}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "w"}}},
            "tool_choice",
            {"type": "tool", "name": "w"},
        ),
        ({"stop": ["a", "b"]}, "stop_sequences", ["a", "b"]),
        ({"reasoning_effort": "minimal"}, "output_config", {"effort": "low"}),
        ({"reasoning_effort": "none"}, "thinking", {"type": "disabled"}),
        ({"thinking": {"type": "adaptive"}}, "thinking", {"type": "adaptive"}),
        ({"response_format": {"type": "text"}}, "output_config", None),
        ({"parallel_tool_calls": False}, "tool_choice", None),
        ({"safety_identifier": "s", "user": "u"}, "metadata", {"user_id": "s"}),
        (
            {
                "parallel_tool_calls": False,
                "tool_choice": "none",
                "tools": [{"type": "function", "function": {"name": "w"}}],
            },
            "tool_choice",
            {"type": "none"},
        ),
    ],
)
def test_small_things_map(fields: dict[str, Any], name: str, expected: object) -> None:
    assert request(**fields).get(name) == expected


def said(role: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": role} | fields]}


def part(**fields: Any) -> dict[str, Any]:
    return said("user", content=[fields])


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("seed", {"seed": 7}),
        ("n", {"n": 2}),
        ("logprobs", {"logprobs": True}),
        ("top_logprobs", {"top_logprobs": 2}),
        ("logit_bias", {"logit_bias": {"1": 2}}),
        ("presence_penalty", {"presence_penalty": 0.5}),
        ("store", {"store": True}),
        ("audio", {"audio": {"voice": "x"}}),
        ("modalities", {"modalities": ["text", "audio"]}),
        ("functions", {"functions": [{"name": "f"}]}),
        ("web_search_options", {"web_search_options": {"search_context_size": "low"}}),
        ("verbosity", {"verbosity": "low"}),
        ("new_thing", {"new_thing": 1}),
        ("temperature", {"temperature": 1.5}),
        ("stop", {"stop": 3}),
        ("service_tier", {"service_tier": "flex"}),
        ("reasoning_effort", {"reasoning_effort": "huge"}),
        ("response_format.type", {"response_format": {"type": "json_object"}}),
        ("response_format.json_schema", {"response_format": {"type": "json_schema"}}),
        ("tools[0].type", {"tools": [{"type": "custom", "custom": {"name": "x"}}]}),
        ("tools[0].function", {"tools": [{"type": "function"}]}),
        ("tool_choice", {"tool_choice": "any"}),
        ("tool_choice.type", {"tool_choice": {"type": "allowed_tools"}}),
        ("tool_choice.function", {"tool_choice": {"type": "function"}}),
        ("messages", said("system", content="x")),
        ("messages[0].role", said("function", content="x")),
        ("messages[0].role", said("robot", content="x")),
        ("messages[1].role", {"messages": [*HELLO, {"role": "system", "content": "x"}]}),
        ("messages[0].content", said("user")),
        ("messages[0].content[0].type", part(type="input_audio")),
        ("messages[0].content[0].image_url", part(type="image_url")),
        (
            "messages[0].content[0].image_url.url",
            part(type="image_url", image_url={"url": "data:image/tiff;base64,AA=="}),
        ),
        ("messages[0].content[0].file", part(type="file")),
        ("messages[0].content[0].file.file_data", part(type="file", file={"file_id": "f"})),
        (
            "messages[0].content[0].file.file_data",
            part(type="file", file={"file_data": "data:text/plain;base64,/w=="}),
        ),
        ("messages[0].audio", said("assistant", content="x", audio={"id": "a"})),
        ("messages[0].function_call", said("assistant", content="x", function_call={"name": "f"})),
        (
            "messages[0].tool_calls[0].function.arguments",
            said("assistant", tool_calls=[tool_call("a", "[]")]),
        ),
        (
            "messages[0].tool_calls[0].function.arguments",
            said("assistant", tool_calls=[tool_call("a", "{")]),
        ),
        (
            "messages[0].tool_calls[0].type",
            said("assistant", tool_calls=[{"id": "a", "type": "custom"}]),
        ),
        ("messages[0].tool_calls[0].function", said("assistant", tool_calls=[{"id": "a"}])),
        (
            "messages[0].thinking_blocks[0].type",
            said("assistant", content="x", thinking_blocks=[{"type": "text"}]),
        ),
        (
            "messages[0].content[0].type",
            said("tool", tool_call_id="a", content=[{"type": "image_url"}]),
        ),
    ],
)
def test_what_has_no_counterpart_is_refused_by_its_name(field: str, fields: dict[str, Any]) -> None:
    assert refusal(**fields) == field


def test_an_answer_maps() -> None:
    found = answered(ToAnthropic(), call(), ANTHROPIC_MESSAGE, FACTS)
    assert found == {
        "id": "msg_01",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "claude-test",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Let me look.",
                    "refusal": None,
                    "reasoning_content": "Two cities.",
                    "thinking_blocks": ANTHROPIC_MESSAGE["content"][:2],
                    "tool_calls": [
                        {
                            "id": "toolu_1",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"city":"Ulm"}'},
                        },
                        {
                            "id": "toolu_2",
                            "type": "function",
                            "function": {"name": "weather", "arguments": '{"city":"Köln"}'},
                        },
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 22,
            "completion_tokens": 20,
            "total_tokens": 42,
            "prompt_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 5},
            "completion_tokens_details": {"reasoning_tokens": 4},
        },
    }


@pytest.mark.parametrize(
    ("reason", "sequence", "finish", "stopped"),
    [
        ("end_turn", None, "stop", None),
        ("max_tokens", None, "length", None),
        ("model_context_window_exceeded", None, "length", None),
        ("stop_sequence", "END", "stop", "END"),
        ("refusal", None, "content_filter", None),
        ("something_new", None, "stop", "something_new"),
        (None, None, "stop", None),
    ],
)
def test_why_an_answer_ended_maps(
    reason: str | None, sequence: str | None, finish: str, stopped: str | None
) -> None:
    message = ANTHROPIC_MESSAGE | {"content": [], "stop_reason": reason, "stop_sequence": sequence}
    (choice,) = answered(ToAnthropic(), call(), message, FACTS)["choices"]
    assert (choice["finish_reason"], choice.get("stop_reason")) == (finish, stopped)
    assert choice["message"]["content"] is None


def test_an_estimate_is_marked_as_one() -> None:
    found = answered(ToAnthropic(), call(), ANTHROPIC_MESSAGE, Facts(answer_bytes=8))
    assert (found["usage"]["completion_tokens"], found["usage"]["estimated"]) == (2, True)


def test_a_block_that_openai_lacks_is_the_providers_failure() -> None:
    message = ANTHROPIC_MESSAGE | {"content": [{"type": "server_tool_use"}]}
    with pytest.raises(ProviderError) as caught:
        answered(ToAnthropic(), call(), message, FACTS)
    assert not caught.value.retryable


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_maps(usage: bool) -> None:
    asking = call(stream=True, stream_options={"include_usage": usage})
    body = streamed(ToAnthropic(), asking, [None, *data(anthropic_stream())], FACTS)
    found = completion_of(body)
    assert found["content"] == "Let me look."
    assert found["reasoning"] == "Two cities."
    assert found["thinking_blocks"] == [
        {"type": "thinking", "thinking": "Two cities.", "signature": "c2lnbmF0dXJl"}
    ]
    assert [found["calls"][index]["id"] for index in (0, 1)] == ["toolu_1", "toolu_2"]
    arguments = [json.loads(found["calls"][index]["arguments"]) for index in (0, 1)]
    assert arguments == [{"city": "Ulm"}, {"city": "Köln"}]
    assert found["finish_reason"] == "tool_calls"
    assert (found["usage"] is not None) is usage
    assert body.count(b": keep-alive\n\n") == 3


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind} | fields


def test_a_tool_without_fragments_has_its_arguments() -> None:
    head = {"type": "tool_use", "id": "a", "name": "w", "input": {"x": 1}}
    events = [
        event("content_block_start", index=0, content_block=head),
        event("content_block_stop", index=0),
        event("content_block_start", index=1, content_block={"type": "text", "text": "Hi"}),
        event("content_block_stop", index=1),
        event("content_block_start", index=2, content_block={"type": "thinking", "thinking": "h"}),
        event("content_block_stop", index=7),
        event("something_new"),
        event("message_delta", delta={"stop_reason": "stop_sequence", "stop_sequence": "END"}),
    ]
    found = completion_of(streamed(ToAnthropic(), call(), events, FACTS))
    assert json.loads(found["calls"][0]["arguments"]) == {"x": 1}
    assert (found["content"], found["reasoning"], found["stop_reason"]) == ("Hi", "h", "END")


@pytest.mark.parametrize(
    "bad",
    [
        event("content_block_start", index=0, content_block={"type": "server_tool_use"}),
        event("content_block_delta", index=5, delta={"type": "text_delta", "text": "x"}),
    ],
)
def test_events_that_openai_lacks_are_the_providers_failure(bad: dict[str, Any]) -> None:
    with pytest.raises(ProviderError):
        streamed(ToAnthropic(), call(), [bad], FACTS)


def test_a_delta_that_openai_lacks_is_the_providers_failure() -> None:
    head = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    delta = event("content_block_delta", index=0, delta={"type": "citations_delta"})
    with pytest.raises(ProviderError):
        streamed(ToAnthropic(), call(), [head, delta], FACTS)


@pytest.mark.parametrize(
    ("given", "kind", "code"),
    [
        ("invalid_request_error", "invalid_request_error", None),
        ("not_found_error", "invalid_request_error", "model_not_found"),
        ("overloaded_error", "server_error", None),
    ],
)
def test_an_error_maps(given: str, kind: str, code: str | None) -> None:
    error = ToAnthropic().error({"type": "error", "error": {"type": given, "message": "m"}})
    assert error == {"error": {"message": "m", "type": kind, "param": None, "code": code}}
    assert json.loads(json.dumps(ToAnthropic().error({})))["error"]["message"]
