"""Log lines: their shape, their context, and what must never be in them."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from services.common import logs
from services.common.settings import CommonSettings

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class Stderr:
    """Standard error in memory."""

    def __init__(self, *, tty: bool) -> None:
        self.buffer = io.BytesIO()
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty

    def text(self) -> str:
        return self.buffer.getvalue().decode()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(logs, "_quick", logs._Quick())
    tokens = [
        (variable, variable.get()) for variable in (logs.service, logs.request_id, logs.trace_id)
    ]
    yield
    for variable, value in tokens:
        variable.set(value)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def configured(
    monkeypatch: pytest.MonkeyPatch, *, tty: bool = False, level: Level = "INFO"
) -> Stderr:
    stderr = Stderr(tty=tty)
    monkeypatch.setattr(sys, "stderr", stderr)
    logs.configure(CommonSettings(log_level=level), "audit")
    return stderr


def test_a_line_is_json_with_the_context_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = configured(monkeypatch)
    logs.request_id.set("request-1")
    logs.trace_id.set("a" * 32)
    structlog.get_logger().info("appended", records=3)
    (line,) = stderr.lines()
    assert line["timestamp"].endswith("Z")
    del line["timestamp"]
    assert line == {
        "level": "info",
        "event": "appended",
        "service": "audit",
        "request_id": "request-1",
        "trace_id": "a" * 32,
        "records": 3,
    }


def test_outside_of_a_request_a_line_has_no_request_id(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = configured(monkeypatch)
    logs.request_id.set("")
    structlog.get_logger().warning("low on disk")
    assert "request_id" not in stderr.lines()[0]


def test_the_level_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = configured(monkeypatch, level="WARNING")
    structlog.get_logger().info("quiet")
    structlog.get_logger().error("loud")
    assert [line["event"] for line in stderr.lines()] == ["loud"]
    assert not logs.enabled("info")
    assert logs.enabled("error")


def test_the_standard_library_takes_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = configured(monkeypatch)
    try:
        int("Bearer abcdefghijkl")
    except ValueError:
        logging.getLogger("some.library").exception("failed for %s", "x")
    (line,) = stderr.lines()
    assert line["event"] == "failed for x"
    assert line["level"] == "error"
    assert line["logger"] == "some.library"
    assert "ValueError" in line["exception"]
    assert "abcdefghijkl" not in line["exception"]


def test_an_exporter_that_complains_is_heard_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = configured(monkeypatch)
    for _ in range(5):
        logging.getLogger("opentelemetry.exporter").warning("collector is down")
    assert len(stderr.lines()) == 1


def test_a_header_that_grpc_cannot_decode_is_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = configured(monkeypatch)
    library = logging.getLogger("grpc._cython.cygrpc")
    header = b"sesame\xa0"
    try:
        header.decode()
    except UnicodeDecodeError:
        library.exception("Invalid encoding on %s", header)
    library.error("Unexpected [%s] raised", "TypeError")
    assert [line["event"] for line in stderr.lines()] == ["Unexpected [TypeError] raised"]
    assert "sesame" not in stderr.text()


def test_a_record_that_cannot_be_formatted_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = configured(monkeypatch)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logging.getLogger("some.library").warning("%d", "not a number")
    assert stderr.text() == ""


def test_a_terminal_in_development_gets_readable_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = configured(monkeypatch, tty=True)
    structlog.get_logger().info("ready", port=8000)
    assert "ready" in stderr.text()
    assert not stderr.text().startswith("{")


def test_the_quick_way_writes_the_same_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = configured(monkeypatch)
    logs.request_id.set("request-1")
    logs.trace_id.set("b" * 32)
    logs.line("info", "rpc", code="OK")
    (line,) = stderr.lines()
    assert list(line) == [
        *("timestamp", "level", "event", "service", "request_id", "trace_id", "code"),
    ]


def test_the_quick_way_writes_nowhere_before_logs_are_configured() -> None:
    logs.line("info", "rpc", code="OK")


@pytest.mark.parametrize(
    "key",
    [
        *("authorization", "Authorization", "api_key", "x-api-key", "apikey", "password"),
        *("WEAVER_MODEL_API_KEY", "client_secret", "private_key", "token", "access_token"),
        *("jwt", "set-cookie", "signing-key", "redis_password", "credential"),
    ],
)
def test_values_under_secret_keys_are_blanked(key: str) -> None:
    event = logs.redact(None, "info", {key: "hunter2", "nested": {"deep": [{key: b"hunter2"}]}})
    assert "hunter2" not in repr(event)


@pytest.mark.parametrize("key", ["tokens", "token_count", "max_tokens", "peer", "request_id"])
def test_values_under_harmless_keys_stay(key: str) -> None:
    assert logs.redact(None, "info", {key: "17"}) == {key: "17"}


SECRETS = [
    # pragma: allowlist nextline secret
    "-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----",
    # pragma: allowlist nextline secret
    "-----BEGIN RSA PRIVATE KEY-----\\nMIIEvQ",
    "Authorization: Bearer sesame-sesame-sesame",
    "authorization: BASIC c2VzYW1lOnNlc2FtZQ==",
    # pragma: allowlist nextline secret
    "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2VzYW1l",
    "sk-proj-sesamesesamesesame",
    # pragma: allowlist nextline secret
    "redis://default:sesame@10.0.0.1:6379/0",
]


@given(before=st.text(max_size=20), after=st.text(max_size=20), secret=st.sampled_from(SECRETS))
def test_secrets_within_values_are_blanked(before: str, after: str, secret: str) -> None:
    cleaned = logs.clean_text(f"{before} {secret} {after}")
    for part in ("MIIEvQ", "sesame-sesame", "c2VzYW1l", "sesamesesame", ":sesame@"):
        assert part not in cleaned


def test_harmless_text_stays() -> None:
    text = "basically https://example.com/a answers; the task-force asks"
    assert logs.clean_text(text) == text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
        max_leaves=20,
    )
)
def test_any_value_makes_a_line(value: object) -> None:
    event = logs.redact(None, "info", {"event": "x", "value": value})
    assert b"\n" not in logs.render(None, "info", event)


def test_endless_nesting_is_cut() -> None:
    value: list[object] = []
    value.append(value)
    assert "..." in repr(logs.redact(None, "info", {"value": value}))
