"""What no request may be, and what every request may."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.gateway.guard import Guard, GuardSettings
from services.gateway.urls import URLRules, host

USER = {"role": "user", "content": "hi"}


def check(body: Any, **settings: Any) -> str:
    """Return the field that a body is refused for; "" for one that passes, "?" without a field."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        Guard(GuardSettings(**settings)).check(raw)
    except InvalidArgument as error:
        return error.violations[0].field if error.violations else "?"
    return ""


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"a":1,"a":2}', "a"),
        (b'{"x":[{"role":1,"ro\\u006ce":2}]}', "role"),
        (b'{"a":1e999}', "?"),
        (b'{"a":-1e999}', "?"),
        (b'{"a":' + b"9" * 5000 + b"}", "?"),
        (b'{"a":NaN}', "?"),
        (b'{"a":Infinity}', "?"),
        (b'{"a":"\x01"}', "?"),
        (b'{"a":"\xff"}', "?"),
        (b'{"a":"\\x"}', "?"),
        (b'{"a":1} x', "?"),
        (b"[]", "?"),
        (b"[" * 100_000, "?"),
        (b'{"a":' * 129 + b"1" + b"}" * 129, "?"),
        ({"m": ["x", "a\0"]}, "m[1]"),
        ({"m": "a\u0001"}, "m"),
    ],
)
def test_bombs_and_bodies_with_two_meanings_are_refused(body: Any, field: str) -> None:
    assert check(body) == field


@pytest.mark.parametrize(
    "body",
    [
        {"a": "{" * 5000},
        {"a": "\x1b[31mred\x1b[0m\b\t\r\n"},
        b'{"a":"\\\\u0000 is nul"}',
        b'{"a":12345678901234567890123,"b":-0.0,"c":1e300}',
        b'{"a":"\\ud83d"}',
        b'{"a":' * 127 + b"1" + b"}" * 127,
        {"unknown": {"z": [None, True, 1.5]}},
    ],
)
def test_what_is_merely_unusual_passes(body: Any) -> None:
    assert check(body) == ""


def test_how_much_there_may_be_is_a_setting() -> None:
    assert check({"messages": [USER] * 3}, max_messages=2) == "messages"
    assert check({"input": [USER] * 3}, max_messages=2) == "input"
    assert check({"input": [1] * 3}, max_messages=2) == ""
    assert check({"tools": [{}] * 3}, max_tools=2) == "tools"
    assert check({"tools": [{}]}, max_tools=0) == "tools"
    assert check({"a": [[[1]]]}, max_depth=3) == "?"


@pytest.mark.parametrize(
    ("controls", "refused"), [("none", "\0\x1b"), ("terminal", "\0"), ("all", "")]
)
def test_which_control_characters_pass_is_a_setting(controls: str, refused: str) -> None:
    for character in "\0\x1b\t\n":
        assert bool(check({"a": character}, controls=controls)) is (character in refused)


PRIVATE = [
    "http://127.0.0.1/",
    "http://2130706433/",
    "http://0177.0.0.1",
    "http://0x7f.1/",
    "http://127.1",
    "http://017700000001/",
    "http://0/",
    "http://[::1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[64:ff9b::a00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[fe80::1%25eth0]/",
    # pragma: allowlist nextline secret
    "http://user:pw@10.0.0.1:80/",
    "http://example.com@169.254.169.254/",
    "http://10.0.0.1#@example.com/",
    "https:\\\\10.0.0.1\\x",
    "http:10.0.0.1",
    "ht\ntp://10.0.0.1/",
    "http://%31%30.0.0.1/",
    "http://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3/",
    "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/",
    "http://127\u30020\u30020\u30021/",
    "http://local\u200bhost/",
    "http://localhost./",
    "http://127.0.0.1.nip.io/",
    "http://10-0-0-1.sslip.io",
    "http://7f000001.nip.io/",
    "http://example.com\\@10.0.0.1/",
    "http:\\\\example.com\\@10.0.0.1/",
    "http://metadata.google.internal/",
    "http://redis:6379/",
    "http://x.svc.cluster.local/",
    "http://100.64.0.1/",
    "http:///",
    "//10.0.0.1/",
    "file:///etc/passwd",
    "gopher://example.com/",
]


@pytest.mark.parametrize("url", PRIVATE)
def test_nothing_is_fetched_from_inside(url: str) -> None:
    """Promise: no fetch to private addresses on behalf of a caller, however they are written."""
    assert URLRules().problem(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png?x=http://10.0.0.1",
        "HTTPS://user@Example.COM:443/a",
        "http://8.8.8.8/",
        "http://[2001:4860:4860::8888]/",
        "http://xn--r8jz45g.jp/",
        "data:image/png;base64,AA==",
        "https://cdn-10-years.example.com/",
        "https://example.com/a?path=C:\\x",
    ],
)
def test_the_internet_can_be_fetched_from(url: str) -> None:
    assert URLRules().problem(url) == ""


INSIDE = "http://10.0.0.1/a.png"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (
            {"messages": [{"content": [{"type": "image_url", "image_url": {"url": INSIDE}}]}]},
            "messages[0].content[0].image_url.url",
        ),
        (
            {
                "messages": [
                    {"content": [{"type": "image", "source": {"type": "url", "url": INSIDE}}]}
                ]
            },
            "messages[0].content[0].source.url",
        ),
        (
            {"input": [{"content": [{"type": "input_image", "image_url": INSIDE}]}]},
            "input[0].content[0].image_url",
        ),
        (
            {"input": [{"content": [{"type": "input_file", "file_url": INSIDE}]}]},
            "input[0].content[0].file_url",
        ),
        (
            {"messages": [{"content": [{"type": "video_url", "video_url": {"url": INSIDE}}]}]},
            "messages[0].content[0].video_url.url",
        ),
        (
            {"messages": [{"content": [{"type": "audio_url", "audio_url": {"url": INSIDE}}]}]},
            "messages[0].content[0].audio_url.url",
        ),
        (
            {"messages": [{"content": [{"image_url": INSIDE}]}]},
            "messages[0].content[0].image_url",
        ),
        (
            {"tools": [{"type": "image_generation", "input_image_mask": {"image_url": INSIDE}}]},
            "tools[0].input_image_mask.image_url",
        ),
        ({"tools": [{"type": "mcp", "server_url": INSIDE}]}, "tools[0].server_url"),
        ({"mcp_servers": [{"type": "url", "url": INSIDE}]}, "mcp_servers[0].url"),
        (
            {
                "messages": [
                    {
                        "content": [
                            {
                                "type": "tool_result",
                                "content": [
                                    {"type": "image", "source": {"type": "url", "url": INSIDE}}
                                ],
                            }
                        ]
                    }
                ]
            },
            "messages[0].content[0].content[0].source.url",
        ),
        ({"messages": [{"content": [{"type": "tool_use", "input": {"url": INSIDE}}]}]}, ""),
        ({"tools": [{"input_schema": {"properties": {"url": {"type": "string"}}}}]}, ""),
        ({"messages": [{"content": f"look at {INSIDE}"}]}, ""),
    ],
)
def test_every_place_that_is_fetched_is_looked_at_and_no_other(body: Any, field: str) -> None:
    assert check(body) == field
    spelled = json.dumps(body).replace("url", "\\u0075rl").encode()
    assert check(spelled) == field
    assert check(body, references=URLRules(private=True)) == ""


def test_hosts_are_allowed_and_denied_by_pattern() -> None:
    rules = URLRules(allow=("*.example.com", "10.0.0.7"), deny=("bad.example.com",))
    assert rules.problem("https://a.example.com/") == ""
    assert rules.problem("http://10.0.0.7/") == ""
    assert rules.problem("https://bad.example.com/")
    assert rules.problem("https://example.org/")
    links = URLRules(deny=("*.onion",), private=True)
    assert check({"m": "see http://x.onion/a"}, links=links) == "m"
    assert check(b'{"m":"see http:\\/\\/x.onion\\/a"}', links=links) == "m"
    assert check(b'{"m":"http\\u003a\\u002f/x.oni\\u006fn"}', links=links) == "m"
    assert check({"m": "see http://localhost:3000/a"}, links=links) == ""


@given(
    st.binary(max_size=200) | st.text(max_size=100).map(lambda text: f'{{"a":"{text}"}}'.encode())
)
def test_any_body_is_answered_for(body: bytes) -> None:
    check(body)


@given(
    st.text(max_size=60), st.sampled_from(["http://", "https:\\", "HTTP:", "data:", "http://[", ""])
)
def test_any_url_has_a_verdict(text: str, scheme: str) -> None:
    host(scheme + text)
    URLRules(allow=("a*",), deny=("b",)).problem(scheme + text)
