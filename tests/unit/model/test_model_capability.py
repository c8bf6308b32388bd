"""Requests held against what a model can do."""

import json

import pytest

from services.common.errors import InvalidArgument
from services.model.call import Answer, Call, Dialect, Facts
from services.model.capability import check
from services.model.generation import Generator
from services.model.retry import RetryPolicy
from services.model.route import Route, Routes, Target
from tests.fakes.instant import LoopClock, run
from tests.fakes.providers import FakeProvider, Figures

IMAGE = {"messages": [{"content": "x"}, {"content": [{"type": "text"}, {"type": "image_url"}]}]}
ASKED = [
    ({"stream": True}, "stream", "stream"),
    ({"tools": [{}]}, "tools", "tools"),
    ({"functions": [{}]}, "tools", "functions"),
    ({"logprobs": True}, "logprobs", "logprobs"),
    ({"response_format": {"type": "json_schema"}}, "json_schema", "response_format"),
    ({"reasoning_effort": "low"}, "reasoning", "reasoning_effort"),
    ({"thinking": {"type": "enabled"}}, "reasoning", "thinking"),
    (IMAGE, "images", "messages[1].content[1]"),
    ({"messages": [{"content": [{"type": "document"}]}]}, "documents", "messages[0].content[0]"),
    ({"messages": [{"content": [{"type": "input_audio"}]}]}, "audio", "messages[0].content[0]"),
]


@pytest.mark.parametrize(("body", "capability", "field"), ASKED)
def test_what_a_model_cannot_do_is_refused_by_its_field(
    body: object, capability: str, field: str
) -> None:
    text = json.dumps(body).encode()

    with pytest.raises(InvalidArgument, match=capability) as caught:
        check(text, Dialect.OPENAI_CHAT, ["other"])
    assert caught.value.violations[0].field == field
    check(text, Dialect.OPENAI_CHAT, [capability])


@pytest.mark.parametrize(
    "body",
    [
        {"stream": False, "tools": [], "logprobs": None, "response_format": {"type": "text"}},
        {"response_format": "odd", "messages": [{"content": ["odd", {"type": "text"}]}]},
        {"response_format": {"type": []}, "messages": [{"content": [{"type": []}, {}]}]},
        {"messages": "odd"},
        [],
    ],
)
def test_what_asks_for_nothing_passes(body: object) -> None:
    check(json.dumps(body).encode(), Dialect.ANTHROPIC_MESSAGES, ["other"])
    check(b"{", Dialect.ANTHROPIC_MESSAGES, ["other"])


def test_embeddings_are_a_capability() -> None:
    with pytest.raises(InvalidArgument, match="embeddings"):
        check(b"{}", Dialect.OPENAI_EMBEDDINGS, ["tools"])
    check(b"{}", Dialect.OPENAI_EMBEDDINGS, ["embeddings"])


def test_nobody_is_asked_what_the_model_cannot_do() -> None:
    provider, figures = FakeProvider(Answer(b"{}", Facts("m", "stop"))), Figures()
    routes = Routes([Route("m", (Target(provider, "m"),), capabilities=("images",))])
    generator = Generator(routes, RetryPolicy(0), LoopClock(), figures, figures)

    with pytest.raises(InvalidArgument, match="tools"):
        run(generator.generate(Call("r", Dialect.OPENAI_CHAT, "m", b'{"tools":[{}]}')))
    assert provider.calls == []
    run(generator.generate(Call("r", Dialect.OPENAI_CHAT, "m", b'{"messages":[]}')))
