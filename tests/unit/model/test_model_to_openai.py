"""Anthropic's messages at an OpenAI provider: what maps, what is left out, what is refused."""

import json
from typing import Any

import pytest

from services.common.errors import InvalidArgument
from services.model.call import Call, Dialect, Facts, Usage
from services.model.dialects.to_openai import ToOpenAI
from services.model.failure import ProviderError
from tests.fakes.dialects import (
    PNG,
    SCHEMA,
    answered,
    asked,
    data,
    message_of,
    retold,
    streamed,
)

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
BASE: dict[str, Any] = {"model": "m", "max_tokens": 100, "messages": HELLO}
FACTS = Facts("gpt", "stop", Usage(30, 12, 7, 5, 4))


def call(**fields: Any) -> Call:
    return asked(BASE | fields, Dialect.ANTHROPIC_MESSAGES)


def request(**fields: Any) -> dict[str, Any]:
    return retold(ToOpenAI(), call(**fields))[0]


def said(*blocks: dict[str, Any], role: str = "user") -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": role, "content": list(blocks)}]
    return messages if role == "user" else [*messages, *HELLO]


def refusal(**fields: Any) -> str:
    with pytest.raises(ProviderError) as caught:
        request(**fields)
    assert caught.value.elsewhere
    assert isinstance(caught.value.error, InvalidArgument)
    return caught.value.error.violations[0].field


def test_a_conversation_maps() -> None:
    found, left_out = retold(
        ToOpenAI(),
        call(
            system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            messages=[
                {"role": "user", "content": "Weather?"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "s"},
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
                            "is_error": True,
                            "content": [{"type": "text", "text": "no"}],
                        },
                        {"type": "text", "text": "So?"},
                    ],
                },
            ],
            temperature=0.5,
            top_p=0.9,
            stop_sequences=["END"],
            stream=True,
            metadata={"user_id": "u-1"},
            tools=[
                {
                    "name": "w",
                    "description": "Weather",
                    "input_schema": SCHEMA,
                    "strict": True,
                    "cache_control": {"type": "ephemeral"},
                }
            ],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
            service_tier="standard_only",
            output_config={"effort": "high", "format": {"type": "json_schema", "schema": SCHEMA}},
        ),
    )
    assert left_out == {"cache_control", "thinking", "is_error"}
    assert found == {
        "model": "m",
        "max_completion_tokens": 100,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": "Looking.",
                "tool_calls": [
                    {
                        "id": "a",
                        "type": "function",
                        "function": {"name": "w", "arguments": '{"city":"Ulm"}'},
                    },
                    {"id": "b", "type": "function", "function": {"name": "w", "arguments": "{}"}},
                ],
            },
            {"role": "tool", "tool_call_id": "a", "content": "sun"},
            {"role": "tool", "tool_call_id": "b", "content": "no"},
            {"role": "user", "content": "So?"},
        ],
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END"],
        "stream": True,
        "user": "u-1",
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "w",
                    "description": "Weather",
                    "parameters": SCHEMA,
                    "strict": True,
                },
            }
        ],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "service_tier": "default",
        "reasoning_effort": "high",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "output", "schema": SCHEMA, "strict": True},
        },
    }


def test_what_makes_a_conversation_cheaper_is_left_out() -> None:
    edits = [{"type": "clear_tool_uses_20250919"}, {"type": "clear_thinking_20251015"}]
    found, left_out = retold(
        ToOpenAI(), call(context_management={"edits": edits}, speed="standard")
    )
    assert left_out == {"context_management"}
    assert set(found) == {"model", "max_completion_tokens", "messages"}


def test_what_says_nothing_is_not_said() -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    tool = {"type": "tool_use", "id": "a", "name": "w", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "a"}
    turns = [*said(thinking, role="assistant"), *said(tool, role="assistant"), *said(result)]
    found = request(system=[], messages=turns)["messages"]
    assert [message["role"] for message in found] == [
        "assistant",
        "user",
        "assistant",
        "user",
        "tool",
    ]
    assert [message["content"] for message in found] == ["", "Hello", None, "Hello", ""]


def test_instructions_may_stand_between() -> None:
    two = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turns = [*HELLO, {"role": "assistant", "content": "Hi"}, {"role": "system", "content": two}]
    found = request(messages=[*turns, *HELLO], system="Be brief.")["messages"]
    assert found[0] == {"role": "system", "content": "Be brief."}
    assert found[3] == {"role": "system", "content": two}


def test_images_and_documents_map() -> None:
    blocks = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}},
        {
            "type": "document",
            "title": "a.pdf",
            "context": "about",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="},
        },
        {
            "type": "document",
            "title": "notes",
            "citations": {"enabled": False},
            "source": {"type": "text", "media_type": "text/plain", "data": "plain"},
        },
        {
            "type": "document",
            "source": {"type": "content", "content": [{"type": "text", "text": "inner"}]},
        },
        {"type": "document", "source": {"type": "content", "content": "bare"}},
    ]
    (message,) = request(messages=said(*blocks))["messages"]
    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
        {"type": "text", "text": "about"},
        {
            "type": "file",
            "file": {
                "filename": "a.pdf",
                "file_data": "data:application/pdf;base64,JVBERg==",
            },
        },
        {"type": "text", "text": "notes"},
        {"type": "text", "text": "plain"},
        {"type": "text", "text": "inner"},
        {"type": "text", "text": "bare"},
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "w"}, {"type": "function", "function": {"name": "w"}}),
    ],
)
def test_the_choice_of_a_tool_maps(choice: dict[str, Any], expected: object) -> None:
    assert request(tool_choice=choice)["tool_choice"] == expected


@pytest.mark.parametrize(
    ("thinking", "effort"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, "low"),
        ({"type": "enabled", "budget_tokens": 8000}, "medium"),
        ({"type": "enabled", "budget_tokens": 32000}, "high"),
        ({"type": "adaptive"}, None),
        ({"type": "disabled"}, None),
    ],
)
def test_a_budget_of_thinking_becomes_an_effort(
    thinking: dict[str, Any], effort: str | None
) -> None:
    found, left_out = retold(ToOpenAI(), call(thinking=thinking))
    assert found.get("reasoning_effort") == effort
    assert ("thinking.budget_tokens" in left_out) is (effort is not None)


IMAGE = {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}}


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("top_k", {"top_k": 5}),
        ("mcp_servers", {"mcp_servers": [{"url": "x"}]}),
        ("container", {"container": "c"}),
        ("new_thing", {"new_thing": 1}),
        ("speed", {"speed": "fast"}),
        (
            "context_management.edits[0].type",
            {"context_management": {"edits": [{"type": "compact_20260112"}]}},
        ),
        ("max_tokens", {"max_tokens": None}),
        ("max_tokens", {"max_tokens": "many"}),
        ("max_tokens", {"max_tokens": 1.5}),
        ("temperature", {"temperature": True}),
        ("system[0].type", {"system": [{"type": "image"}]}),
        ("system", {"system": 3}),
        ("messages", {"messages": []}),
        ("messages[0]", {"messages": ["x"]}),
        ("messages[0].role", {"messages": [{"role": "robot", "content": "x"}]}),
        ("messages[0].content", {"messages": [{"role": "user"}]}),
        ("messages[0].name", {"messages": [{"role": "user", "content": "x", "name": "y"}]}),
        ("messages[1].role", {"messages": [*HELLO, {"role": "assistant", "content": "I"}]}),
        ("messages[0].content[0].type", {"messages": said({"type": "search_result"})}),
        ("messages[0].content[0].type", {"messages": said({"type": "x"}, role="assistant")}),
        ("messages[0].content[0].type", {"messages": said({"text": "x"})}),
        ("messages[0].content[0].source", {"messages": said({"type": "image"})}),
        ("messages[0].content[0].source", {"messages": said({"type": "document"})}),
        (
            "messages[0].content[0].source.media_type",
            {
                "messages": said(
                    {
                        "type": "document",
                        "source": {"type": "base64", "media_type": "text/html", "data": "AA=="},
                    }
                )
            },
        ),
        (
            "messages[0].content[0].source.content[0].type",
            {
                "messages": said(
                    {
                        "type": "document",
                        "source": {"type": "content", "content": [{"type": "document"}]},
                    }
                )
            },
        ),
        (
            "messages[0].content[0].source.type",
            {"messages": said({"type": "image", "source": {"type": "file", "file_id": "f"}})},
        ),
        (
            "messages[0].content[0].source.type",
            {"messages": said({"type": "document", "source": {"type": "url", "url": "x"}})},
        ),
        (
            "messages[0].content[0].citations.enabled",
            {
                "messages": said(
                    {
                        "type": "document",
                        "citations": {"enabled": True},
                        "source": {"type": "text", "data": "x"},
                    }
                )
            },
        ),
        (
            "messages[0].content[0].content[0].type",
            {
                "messages": said(
                    {"type": "tool_result", "tool_use_id": "a", "content": [IMAGE]},
                )
            },
        ),
        ("tools[0].type", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
        ("tools[0].name", {"tools": [{"input_schema": {}}]}),
        ("tools[0].defer_loading", {"tools": [{"name": "a", "defer_loading": True}]}),
        ("tool_choice.type", {"tool_choice": {"type": "some"}}),
        ("thinking.type", {"thinking": {"type": "between_tools"}}),
        ("output_config.effort", {"output_config": {"effort": "huge"}}),
        ("output_config.format.type", {"output_config": {"format": {"type": "xml"}}}),
        ("service_tier", {"service_tier": "gold"}),
    ],
)
def test_what_has_no_counterpart_is_refused_by_its_name(field: str, fields: dict[str, Any]) -> None:
    assert refusal(**fields) == field


def completion(message: dict[str, Any], **choice: Any) -> dict[str, Any]:
    found = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None} | choice
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": "gpt", "choices": [found]}


CALLS = [
    {"id": "a", "type": "function", "function": {"name": "w", "arguments": '{"city":"Ulm"}'}},
    {"id": "b", "type": "function", "function": {"name": "w", "arguments": ""}},
]


def test_an_answer_maps() -> None:
    message = {
        "role": "assistant",
        "content": "Looking.",
        "reasoning_content": "hm",
        "tool_calls": CALLS,
    }
    found = answered(ToOpenAI(), call(), completion(message, finish_reason="tool_calls"), FACTS)
    assert found == {
        "id": "chatcmpl-1",
        "type": "message",
        "role": "assistant",
        "model": "gpt",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "Looking."},
            {"type": "tool_use", "id": "a", "name": "w", "input": {"city": "Ulm"}},
            {"type": "tool_use", "id": "b", "name": "w", "input": {}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 18,
            "cache_creation_input_tokens": 5,
            "cache_read_input_tokens": 7,
            "output_tokens": 12,
            "output_tokens_details": {"thinking_tokens": 4},
        },
    }


@pytest.mark.parametrize(
    ("choice", "message", "reason", "sequence"),
    [
        ({}, {"content": "x"}, "end_turn", None),
        ({"finish_reason": "length"}, {"content": "x"}, "max_tokens", None),
        ({"finish_reason": "content_filter"}, {"content": "x"}, "refusal", None),
        ({"stop_reason": "END"}, {"content": "x"}, "stop_sequence", "END"),
        ({"stop_reason": 7}, {"content": "x"}, "end_turn", None),
        ({}, {"refusal": "I cannot."}, "refusal", None),
        ({"finish_reason": "eos_token"}, {"content": "x"}, "end_turn", None),
        ({"finish_reason": "abort"}, {"content": "x"}, "abort", None),
    ],
)
def test_why_an_answer_ended_maps(
    choice: dict[str, Any], message: dict[str, Any], reason: str, sequence: str | None
) -> None:
    found = answered(ToOpenAI(), call(), completion(message, **choice), FACTS)
    assert (found["stop_reason"], found["stop_sequence"]) == (reason, sequence)
    assert found["content"] == [{"type": "text", "text": next(iter(message.values()))}]


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("stop", "tool_use"),
        (None, "tool_use"),
        ("tool_calls", "tool_use"),
        ("length", "max_tokens"),
    ],
)
def test_an_answer_that_calls_a_tool_waits_for_it_whatever_the_server_says(
    finish: str | None, reason: str
) -> None:
    """OpenAI says `stop` where the tool was demanded by its name; agents look at the reason."""
    message = {"content": None, "tool_calls": CALLS}
    found = answered(ToOpenAI(), call(), completion(message, finish_reason=finish), FACTS)
    assert found["stop_reason"] == reason
    events = [chunk(tool_calls=[fragment(0, "{}", id="a", name="w")]), chunk(finish or "stop")]
    assert message_of(streamed(ToOpenAI(), call(), events, FACTS))["stop_reason"] == reason


@pytest.mark.parametrize("said", ["hm", [{"type": "text", "text": "hm"}]])
def test_an_answer_in_parts_maps(said: object) -> None:
    """Mistral's reasoning models divide what they say."""
    thought = {"type": "thinking", "thinking": said}
    parts = [thought, {"type": "text", "text": "Sun"}, {"type": "text", "text": "ny."}]
    found = answered(ToOpenAI(), call(), completion({"content": parts}), FACTS)
    wanted = [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "Sunny."},
    ]
    assert found["content"] == wanted
    events = [chunk(content=[part]) for part in parts]
    assert (
        message_of(streamed(ToOpenAI(), call(), [*events, chunk("stop")], FACTS))["content"]
        == wanted
    )


def test_a_part_that_is_no_text_is_the_providers_failure() -> None:
    with pytest.raises(ProviderError, match="'audio', which Anthropic lacks"):
        answered(ToOpenAI(), call(), completion({"content": [{"type": "audio"}]}), FACTS)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_server_is_told_the_limit_in_the_field_that_it_knows(field: str) -> None:
    found, _ = retold(ToOpenAI(field), call(max_tokens=7))
    limits = {name: found[name] for name in found if name.startswith("max_")}
    assert limits == {field: 7}


def test_an_estimate_is_marked_as_one() -> None:
    found = answered(ToOpenAI(), call(), completion({"content": "x"}), Facts(answer_bytes=8))
    assert (found["usage"]["output_tokens"], found["usage"]["estimated"]) == (2, True)


@pytest.mark.parametrize("arguments", ["{", "[]", "3"])
def test_arguments_that_are_no_object_are_the_providers_failure(arguments: str) -> None:
    calls = [{"id": "a", "function": {"name": "w", "arguments": arguments}}]
    with pytest.raises(ProviderError) as caught:
        answered(ToOpenAI(), call(), completion({"tool_calls": calls}), FACTS)
    assert not caught.value.retryable


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "chatcmpl-1", "model": "gpt", "choices": [choice]}


def fragment(index: int, arguments: str = "", **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments} | {k: v for k, v in more.items() if k == "name"}
    call_id = {k: v for k, v in more.items() if k == "id"}
    return {"index": index, "function": function} | call_id


def test_a_stream_maps() -> None:
    events = [
        None,
        chunk(role="assistant", content=""),
        chunk(reasoning_content="h"),
        chunk(reasoning="m"),
        chunk(content="Loo"),
        None,
        chunk(content="king"),
        chunk("stop"),
    ]
    body = streamed(ToOpenAI(), call(stream=True), events, FACTS)
    kinds = [event["type"] for event in data(body)]
    assert kinds == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "ping",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    message = message_of(body)
    assert message["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "Looking"},
    ]
    assert (message["stop_reason"], message["usage"]["input_tokens"]) == ("end_turn", 18)


@pytest.mark.parametrize(
    "fragments",
    [
        [[(0, '{"ci')], [(0, 'ty":1}')], [(1, '{"a"')], [(1, ":2}")]],
        [[(0, '{"ci')], [(1, '{"a"')], [(0, 'ty":1}')], [(1, ":2}")]],
        [[(0, '{"ci'), (1, '{"a"')], [(1, ":2}"), (0, 'ty":1}')]],
        [[(0, '{"city":1}'), (1, '{"a":2}')]],
    ],
)
def test_parallel_tools_in_fragments_of_any_order_map(
    fragments: list[list[tuple[int, str]]],
) -> None:
    named: set[int] = set()
    events: list[Any] = [chunk(content="Hm.")]
    for group in fragments:
        calls = []
        for index, text in group:
            more = {} if index in named else {"id": f"id-{index}", "name": f"tool-{index}"}
            named.add(index)
            calls.append(fragment(index, text, **more))
        events.append(chunk(tool_calls=calls))
    events.append(chunk("tool_calls"))
    message = message_of(streamed(ToOpenAI(), call(stream=True), events, FACTS))
    assert message["content"] == [
        {"type": "text", "text": "Hm."},
        {"type": "tool_use", "id": "id-0", "name": "tool-0", "input": {"city": 1}},
        {"type": "tool_use", "id": "id-1", "name": "tool-1", "input": {"a": 2}},
    ]
    assert message["stop_reason"] == "tool_use"


@pytest.mark.parametrize("index", [{}, {"index": 0}])
def test_tools_that_are_numbered_badly_are_told_apart_by_their_ids(index: dict[str, int]) -> None:
    first = {"id": "a", "function": {"name": "w", "arguments": '{"x"'}} | index
    rest = {"function": {"arguments": ":1}"}} | index
    second = {"id": "b", "function": {"name": "w", "arguments": '{"x":2}'}} | index
    silent = {"choices": [{"index": 0}]}
    events = [chunk(tool_calls=[first]), silent, chunk(tool_calls=[rest, second])]
    events.append(chunk("tool_calls"))
    message = message_of(streamed(ToOpenAI(), call(stream=True), events, FACTS))
    assert [(block["id"], block["input"]) for block in message["content"]] == [
        ("a", {"x": 1}),
        ("b", {"x": 2}),
    ]


def test_a_stream_begins_with_the_first_event_that_says_who_answers() -> None:
    """Azure sends its verdict on the prompt before, without an id."""
    verdict = {"id": "", "model": "", "choices": [], "prompt_filter_results": []}
    body = streamed(ToOpenAI(), call(stream=True), [verdict, chunk(content="x")], FACTS)
    assert (message_of(body)["id"], message_of(body)["model"]) == ("chatcmpl-1", "gpt")
    assert message_of(streamed(ToOpenAI(), call(stream=True), [verdict], FACTS))["content"] == []


def test_tools_without_arguments_have_an_empty_input() -> None:
    calls = [fragment(index, id=f"id-{index}", name="now") for index in (0, 1)]
    body = streamed(ToOpenAI(), call(stream=True), [chunk(tool_calls=calls)], FACTS)
    assert [block["input"] for block in message_of(body)["content"]] == [{}, {}]


def test_a_text_after_a_tool_is_not_lost() -> None:
    events = [
        chunk(tool_calls=[fragment(0, "{", id="a", name="w")]),
        chunk(content="and"),
        chunk(tool_calls=[fragment(0, "}")]),
        chunk(refusal=" no"),
        chunk("stop"),
    ]
    message = message_of(streamed(ToOpenAI(), call(stream=True), events, FACTS))
    assert [block["type"] for block in message["content"]] == ["tool_use", "text"]
    assert message["content"][1]["text"] == "and no"
    assert message["stop_reason"] == "refusal"


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"message": "m", "type": "invalid_request_error", "code": None}, "invalid_request_error"),
        ({"message": "m", "code": "model_not_found"}, "not_found_error"),
        ({"message": "m", "type": "rate_limit_error"}, "rate_limit_error"),
        ("m", "invalid_request_error"),
    ],
)
def test_an_error_maps(given: object, kind: str) -> None:
    error = ToOpenAI().error({"error": given})
    assert error == {"type": "error", "error": {"type": kind, "message": "m"}}
    assert json.loads(json.dumps(ToOpenAI().error({})))["error"]["message"]
