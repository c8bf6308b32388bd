"""A policy says what is done about each type, for whom; a bad one changes nothing."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from services.common.file_watch import FileWatch
from services.common.operator_file import OperatorFileError
from services.common.settings import SettingsError, load
from services.gateway import privacy
from services.gateway.content import Content
from services.gateway.content_errors import ContentRefused
from services.gateway.event_redaction import MessageRedactor
from services.gateway.personal_data import TYPES
from services.gateway.principal import Principal
from services.gateway.privacy import Action, PrivacyError, Rules, actions
from services.gateway.redaction import Redactor
from services.gateway.redaction_settings import RedactionSettings
from services.gateway.running_text import RunningText

EXAMPLE = Path(__file__).parents[3] / "deploy/gateway/content-policy.yaml"
SOMEBODY = Principal("t", "apikey", "s", ("user",))
BACK = Rules(actions(Action.PSEUDONYMIZE))
CARD = "4111 1111 1111 1111"
# pragma: allowlist nextline secret
KEY = "-----BEGIN PRIVATE KEY-----\n" + "MIIEow" * 20 + "\n-----END PRIVATE KEY-----"


def body(text: str, **fields: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}]} | fields).encode()


def asked(text: str, rules: Rules = BACK) -> Redactor:
    redactor = Redactor(rules)
    redactor.prompt(body(text))
    redactor.end_prompt()
    return redactor


def test_the_example_is_a_policy() -> None:
    policy = privacy.parse(EXAMPLE.read_bytes(), must_redact=True)
    rules = policy.rules(SOMEBODY)
    assert set(rules.actions) == set(TYPES)
    assert rules.actions["EMAIL"] is Action.PSEUDONYMIZE
    desk = policy.rules(Principal("support-desk", "apikey", "s", ("user",)))
    assert desk.actions["EMAIL"] is Action.PASS
    assert desk.actions["PRIVATE_KEY"] is Action.BLOCK
    assert policy.rules(Principal("support-desk", "apikey", "s", ())) is rules


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: 2", "version"),
        ("version: 1\ntypes: {emial: pass}", "emial"),
        ("version: 1\ntypes: {email: drop}", "email"),
        ("version: 1\nother: 1", "other"),
        ("version: 1\nversion: 1", "twice"),
        ("version: 1\nblocked_patterns: [{name: a, pattern: '(?=x)'}]", "pattern"),
        ("version: 1\nblocked_patterns: [{name: a, pattern: 'x*'}]", "empty"),
        ("version: 1\nblocked_patterns: [{name: '', pattern: 'x'}]", "name"),
        ("version: 1\nurls: {references: {alow: []}}", "alow"),
        ("version: 1\ndefault: pass", "passes"),
        ("version: 1\nurls: {references: {private: true}}", "private"),
    ],
)
def test_a_bad_policy_is_a_sentence(text: str, said: str) -> None:
    with pytest.raises(PrivacyError, match=said):
        privacy.parse(text.encode(), must_redact=True)


def test_settings_complete_what_the_file_does_not_say() -> None:
    policy = privacy.parse(
        b"version: 1\ntypes: {card: pass}", Action.PSEUDONYMIZE, {"card": "block", "ssn": "block"}
    )
    chosen = policy.rules(SOMEBODY).actions
    assert (chosen["CARD"], chosen["SSN"], chosen["EMAIL"]) == ("pass", "block", "pseudonymize")


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"WEAVER_PII_TYPES": "card=drop"}, "WEAVER_PII_TYPES"),
        ({"WEAVER_PII_TYPES": "cardd=pass"}, "WEAVER_PII_TYPES"),
        ({"WEAVER_PII_ACTION": "pass"}, "WEAVER_PII_ACTION"),
        ({"WEAVER_REQUEST_MAX_DEPTH": "1"}, "WEAVER_REQUEST_MAX_DEPTH"),
        ({"ENVIRONMENT": "production", "WEAVER_PII_REDACT": "false"}, "WEAVER_PII_REDACT"),
        (
            {
                "ENVIRONMENT": "production",
                "WEAVER_PII_TYPES": ",".join(f"{kind.lower()}=pass" for kind in TYPES),
            },
            "WEAVER_PII_TYPES",
        ),
        ({"ENVIRONMENT": "production", "WEAVER_REQUEST_PRIVATE_URLS": "true"}, "PRIVATE_URLS"),
    ],
)
def test_a_bad_setting_stops_the_start_by_its_name(
    environment: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WEAVER_TLS_DIR", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=named):
        load(RedactionSettings)


async def test_a_changed_file_decides_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    path, content = tmp_path / "policy.yaml", Content()
    heard: list[str] = []

    def hear(problem: str, _before: str, _now: str) -> None:
        heard.append(problem)

    path.write_text("version: 1\ntypes: {card: pass}")
    watch = FileWatch(path, privacy.parse, content.adopt, hear)
    content.adopt(watch.first())

    def sent() -> bytes:
        redactor = content.redactor(SOMEBODY)
        assert redactor is not None
        return redactor.prompt(body(CARD))

    assert CARD.encode() in sent()
    path.write_text("version: 1")
    await watch.look()
    assert b"[CARD_1]" in sent()
    path.write_text("nonsense: [")
    await watch.look()
    await watch.look()
    assert b"[CARD_1]" in sent()
    path.unlink()
    await watch.look()
    assert [bool(problem) for problem in heard] == [False, False, True, True]
    with pytest.raises(OperatorFileError, match="cannot read"):
        FileWatch(path, privacy.parse, content.adopt, hear).first()


def test_a_blocked_type_is_named_and_its_value_is_not() -> None:
    rules = Rules(actions(Action.REDACT, {"card": "block"}))
    parts = [{"type": "text", "text": "x"}, {"type": "text", "text": CARD}]
    with pytest.raises(ContentRefused) as refused:
        Redactor(rules).prompt(json.dumps({"messages": [{"content": parts}]}).encode())
    assert refused.value.violations[0].field == "messages[0].content[1].text"
    assert "CARD" in refused.value.message
    assert "4111" not in refused.value.message
    with pytest.raises(ContentRefused) as refused:
        Redactor(rules).prompt(json.dumps({"bob@example.com": CARD}).encode())
    assert "bob@" not in refused.value.message
    assert Redactor(rules).text(f"an answer's {CARD}") == "an answer's [CARD_1]"


def test_a_blocked_pattern_is_refused_even_where_personal_data_passes() -> None:
    text = b"version: 1\nblocked_patterns: [{name: birds, pattern: nightjar, ignore_case: true}]"
    content = Content(redact=False)
    assert content.redactor(SOMEBODY) is None
    content.adopt(privacy.parse(text))
    redactor = content.redactor(SOMEBODY)
    assert redactor is not None
    assert redactor.prompt(body(CARD)) == body(CARD)
    with pytest.raises(ContentRefused, match=r"messages\[0\].content.*birds"):
        redactor.prompt(body("\u00fc a NIGHTJAR"))


def test_what_left_as_a_placeholder_returns_as_it_came() -> None:
    """Promise: the provider never sees it, and the user still gets a usable text."""
    redactor = asked(f"mail Bob@x.com, {KEY} and [EMAIL_1]")
    arguments = json.dumps({"key": "[PRIVATE_KEY_1]", "to": "[EMAIL_2]"})
    message = {
        "content": "to [EMAIL_2], not [EMAIL_1] or [EMAIL_3]",
        "tool_calls": [{"function": {"arguments": arguments}}],
    }
    answer = redactor.restore(redactor.answer(json.dumps({"message": message}).encode()))
    said = json.loads(answer)["message"]
    assert said["content"] == "to Bob@x.com, not [EMAIL_1] or [EMAIL_3]"
    called = json.loads(said["tool_calls"][0]["function"]["arguments"])
    assert called == {"key": KEY, "to": "Bob@x.com"}


def test_what_only_the_answer_holds_does_not_return() -> None:
    redactor = asked("mail bob@x.com")
    answer = redactor.answer(b'{"content":"eve@y.com and bob@x.com"}')
    assert redactor.restore(answer) == b'{"content":"[EMAIL_2] and bob@x.com"}'


def test_two_requests_share_nothing() -> None:
    """Promise: a pseudonym lives for one request."""
    asked("mail bob@x.com")
    assert asked("nothing").restore(b'{"content":"[EMAIL_1]"}') == b'{"content":"[EMAIL_1]"}'


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("field", ["text", "partial_json"])
def test_a_placeholder_cut_in_pieces_returns_too(size: int, field: str) -> None:
    text = json.dumps({"to": "[EMAIL_1]", "key": "[PRIVATE_KEY_1]"})
    redactor = asked(f"mail bob@x.com {KEY}")
    stream = MessageRedactor(redactor)
    kind = {"text": "text_delta", "partial_json": "input_json_delta"}[field]
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    events = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": kind, field: piece}}
        for piece in pieces
    ]
    events.append({"type": "content_block_stop", "index": 0})
    out = b"".join(
        redactor.restore(stream.events(f"data: {json.dumps(event)}\n\n".encode()))
        for event in events
    )
    said = ""
    for line in out.splitlines():
        if line.startswith(b"data: "):
            said += json.loads(line[6:]).get("delta", {}).get(field, "")
    if field == "partial_json":
        assert json.loads(said) == {"to": "bob@x.com", "key": KEY}
    else:
        assert said == text.replace("[EMAIL_1]", "bob@x.com").replace("[PRIVATE_KEY_1]", KEY)


@pytest.mark.parametrize("size", [1, 4, 5, 300])
def test_placeholders_in_a_long_text_without_spaces_return_too(size: int) -> None:
    """Promise: a stream says what the whole says, also where models write JSON without spaces."""
    redactor = asked(" ".join(f"user{number}@x.com" for number in range(1, 40)))
    text = ",".join(f'{{"name":"n{number}","mail":"[EMAIL_{number}]"}}' for number in range(1, 40))
    running = RunningText(redactor)
    pieces = [running.feed(text[at : at + size]) for at in range(0, len(text), size)]
    said = b"".join(redactor.restore(piece.encode()) for piece in (*pieces, running.finish()))
    assert said.decode() == re.sub(r"\[EMAIL_([0-9]+)\]", r"user\1@x.com", text)
    assert any(pieces)


@pytest.mark.parametrize(
    ("value", "redacted"),
    [
        ({"n": 4111111111111111}, {"n": "[CARD_1]"}),
        ({"n": -4111111111111111}, {"n": "[CARD_1]"}),
        ({"n": 4111111111111111.0}, {"n": "[CARD_1]"}),
        ([4111111111111111, 1], ["[CARD_1]", 1]),
        ({"s": 'quoted "n": 4111111111111111, ok'}, {"s": 'quoted "n": "[CARD_1]", ok'}),
        ({"s": "in a list [4111111111111111, 2]"}, {"s": "in a list [[CARD_1], 2]"}),
    ],
)
def test_numbers_stay_json_at_every_depth(value: Any, redacted: Any) -> None:
    for _ in range(3):
        assert json.loads(Redactor().json(json.dumps(value).encode())) == redacted
        value, redacted = {"arguments": json.dumps(value)}, {"arguments": json.dumps(redacted)}


def test_a_clean_prompt_costs_microseconds() -> None:
    prompt = body("The quarterly report shows that revenue grew while costs stayed flat. " * 3)
    Redactor().prompt(prompt)
    best = float("inf")
    for _ in range(50):
        started = time.perf_counter()
        for _ in range(20):
            Redactor().prompt(prompt)
        best = min(best, (time.perf_counter() - started) / 20)
    assert best < 20e-6
