"""Text documents in base64 are searched like the rest; what cannot be searched can be refused."""

import base64
import json
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.settings import SettingsError, load
from services.gateway import privacy
from services.gateway.content import Content
from services.gateway.content_errors import ContentRefused, Unsearchable
from services.gateway.effort import TooMuchToCheck
from services.gateway.principal import Principal
from services.gateway.privacy import Action, PrivacyError, Rules, actions
from services.gateway.redaction import Redactor
from services.gateway.redaction_settings import RedactionSettings

SOMEBODY = Principal("t", "apikey", "s", ("user",))
TEXT = "Name;Mail\nBob;bob@example.com\nCard;4111 1111 1111 1111\n"
HIDDEN = "Name;Mail\nBob;[EMAIL_1]\nCard;[CARD_1]\n"
PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj bob@example.com endobj"
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR bob@example.com"


def b64(content: bytes | str) -> str:
    raw = content.encode() if isinstance(content, str) else content
    return base64.b64encode(raw).decode()


def url(content: bytes | str, media_type: str = "text/plain") -> str:
    return f"data:{media_type};base64,{b64(content)}"


def chat(*parts: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}]}).encode()


def part(body: bytes) -> Any:
    return json.loads(body)["messages"][0]["content"][0]


def content_of(text: str) -> str:
    return base64.b64decode(text.rpartition(",")[2]).decode()


def sent(*parts: Any, rules: Rules | None = None) -> bytes:
    return Redactor(rules or Rules(actions())).prompt(chat(*parts))


def test_text_is_searched_in_every_part_that_carries_a_file() -> None:
    """Promise: a text document hides nothing that the text itself would not."""
    file = {"type": "file", "file": {"filename": "a.csv", "file_data": url(TEXT, "text/csv")}}
    assert content_of(part(sent(file))["file"]["file_data"]) == HIDDEN
    bare = {"type": "file", "file": {"filename": "a.csv", "file_data": b64(TEXT)}}
    assert content_of(part(sent(bare))["file"]["file_data"]) == HIDDEN
    image = {"type": "image_url", "image_url": {"url": url(TEXT)}}
    assert content_of(part(sent(image))["image_url"]["url"]) == HIDDEN
    source = {"type": "base64", "media_type": "text/plain", "data": b64(TEXT)}
    document = {"type": "document", "source": source}
    assert content_of(part(sent(document))["source"]["data"]) == HIDDEN
    late = {"source": {"data": b64(TEXT), "media_type": "text/markdown", "type": "base64"}}
    assert content_of(part(sent(late))["source"]["data"]) == HIDDEN
    plain = {"type": "document", "source": {"type": "text", "data": TEXT}}
    assert part(sent(plain))["source"]["data"] == HIDDEN
    within = {"type": "text", "text": f"see ![x]({url(TEXT)}) there"}
    assert content_of(part(sent(within))["text"].removesuffix(") there")) == HIDDEN
    arguments = json.dumps({"file": url(TEXT)}).replace("/", "\\/")
    call = {"type": "tool_use", "input": {"arguments": arguments}}
    again = json.loads(part(sent(call))["input"]["arguments"])["file"]
    assert content_of(again) == HIDDEN


@pytest.mark.parametrize("indent", [None, 1])
def test_json_in_strings_carries_nothing_past(indent: int | None) -> None:
    value: Any = {"source": {"type": "base64", "media_type": "text/plain", "data": b64(TEXT)}}
    for _ in range(2):
        value = {"arguments": json.dumps(value, indent=indent)}
    found = json.loads(Redactor().prompt(json.dumps(value).encode()))
    for _ in range(2):
        found = json.loads(found["arguments"])
    assert content_of(found["source"]["data"]) == HIDDEN
    clean = json.dumps({"arguments": '{"data": "hello", "x": "\\u00e9"}'}).encode()
    assert Redactor().prompt(clean) is clean


def test_blanks_in_a_url_hide_nothing() -> None:
    said = part(sent({"image_url": f"data: text/plain ;base64 , {b64(TEXT)}"}))
    assert content_of(said["image_url"]) == HIDDEN


@pytest.mark.parametrize(
    "spelled",
    [
        lambda text: "\n".join(text[at : at + 76] for at in range(0, len(text), 76)),
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: text.rstrip("="),
        lambda text: f" {text} \r\n",
        lambda text: f"{text.rstrip('=')}====",
        lambda text: f"{text.rstrip('=')}A" if len(text.rstrip("=")) % 4 == 0 else text,
        lambda text: quote(text, safe=""),
    ],
)
@pytest.mark.parametrize("more", ["", "x", "xy", "\u00ff\u00fe?>~"])
def test_no_spelling_of_base64_hides_a_text(spelled: Any, more: str) -> None:
    text = f"data:text/plain;charset=utf-8;BASE64,{spelled(b64(TEXT + more))}"
    body = sent({"type": "image_url", "image_url": {"url": text}})
    assert content_of(part(body)["image_url"]["url"]) == HIDDEN + more


def test_names_and_urls_spelled_with_escapes_hide_nothing() -> None:
    text = chat({"type": "document", "source": {"data": b64(TEXT)}}, {"u": url(TEXT)}).decode()
    text = text.replace('"data"', '"\\u0064ata"').replace("data:", "\\u0064at\\u0061:")
    parts = json.loads(Redactor().prompt(text.encode()))["messages"][0]["content"]
    assert content_of(parts[0]["source"]["data"]) == HIDDEN
    assert content_of(parts[1]["u"]) == HIDDEN


@pytest.mark.parametrize(
    "media_type",
    ["", "text/html", "application/json", "image/svg+xml", "application/octet-stream", "image/png"],
)
def test_text_is_known_by_its_look_whatever_it_is_called(media_type: str) -> None:
    body = sent({"type": "image_url", "image_url": {"url": url(TEXT, media_type)}})
    assert content_of(part(body)["image_url"]["url"]) == HIDDEN


def test_a_text_behind_percent_signs_is_searched() -> None:
    text = "data:text/plain," + quote(TEXT)
    said = part(sent({"image_url": text}))["image_url"]
    assert unquote(said.partition(",")[2]) == HIDDEN


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-16-le", "\ufeff"),
        ("utf-16-be", "\ufeff"),
        ("utf-16-le", ""),
        ("utf-16-be", ""),
        ("utf-32-le", "\ufeff"),
        ("utf-32-be", ""),
        ("utf-8", "\ufeff"),
        ("latin-1", "\u00fc"),
        ("shift_jis", "\u3042"),
    ],
)
def test_every_encoding_of_a_text_is_searched_and_kept(encoding: str, mark: str) -> None:
    body = sent({"file_data": url((mark + TEXT).encode(encoding))})
    said = base64.b64decode(part(body)["file_data"].rpartition(",")[2])
    assert said == (mark + HIDDEN).encode(encoding)


def test_utf_7_hides_nothing_where_it_is_declared() -> None:
    body = sent({"file_data": url("bob+AEA-example.com", "text/plain;charset=utf-7")})
    said = base64.b64decode(part(body)["file_data"].rpartition(",")[2])
    assert said.decode("utf-7") == "[EMAIL_1]"


def test_json_in_a_document_stays_json_and_documents_in_documents_are_searched() -> None:
    inner = json.dumps({"mail": "bob@example.com", "cards": [4111111111111111]})
    outer = json.dumps({"source": {"media_type": "application/json", "data": b64(inner)}})
    page = f"<img src='{url(outer, 'application/json')}'> for bob@example.com"
    body = sent({"file_data": url(page, "text/html")})
    html = content_of(part(body)["file_data"])
    assert html.endswith("> for [EMAIL_1]")
    found = json.loads(base64.b64decode(html.partition("base64,")[2].partition("'")[0]))
    assert json.loads(base64.b64decode(found["source"]["data"])) == {
        "mail": "[EMAIL_1]",
        "cards": ["[CARD_1]"],
    }
    for _ in range(3):
        page = url(page, "text/html")
    with pytest.raises(Unsearchable, match=r"messages\[0\].content\[0\].file_data.*others"):
        sent({"file_data": url(page, "text/html")})


def test_the_same_value_has_the_same_number_within_and_without() -> None:
    body = sent({"file_data": url(TEXT)}, {"type": "text", "text": "bob@example.com"})
    assert json.loads(body)["messages"][0]["content"][1]["text"] == "[EMAIL_1]"


@pytest.mark.parametrize(
    "text",
    [
        url("nothing to hide, " * 20),
        url(PNG, "image/png"),
        url(PDF, "application/pdf"),
        "data:text/plain,nothing%20here",
        url("nothing\nhere").replace("base64,", "base64, \n "),
    ],
)
def test_what_holds_nothing_stays_byte_for_byte(text: str) -> None:
    body = chat({"type": "image_url", "image_url": {"url": text}})
    assert Redactor().prompt(body) is body


def test_a_type_or_a_pattern_that_is_blocked_is_refused_by_the_place_of_its_document() -> None:
    rules = Rules(actions(Action.REDACT, {"card": "block"}))
    with pytest.raises(ContentRefused) as refused:
        sent({"type": "file", "file": {"file_data": url(TEXT)}}, rules=rules)
    assert refused.value.violations[0].field == "messages[0].content[0].file.file_data"
    assert "4111" not in refused.value.message
    policy = privacy.parse(b"version: 1\nblocked_patterns: [{name: birds, pattern: nightjar}]")
    with pytest.raises(ContentRefused, match=r"content\[0\].image_url.*birds"):
        sent({"image_url": url("a nightjar")}, rules=policy.rules(SOMEBODY))


def test_a_text_whose_base64_can_be_read_in_two_ways_is_refused() -> None:
    for payload in (b64(TEXT)[:8] + "!" + b64(TEXT)[8:], "QQ==" + b64(TEXT)):
        with pytest.raises(Unsearchable, match=r"content\[0\].image_url.*cannot be decoded"):
            sent({"image_url": f"data:text/plain;base64,{payload}"})
    talk = {"type": "text", "text": "write data:text/plain;base64,<your text> or data:,x there"}
    assert part(sent(talk)) == talk


def test_documents_pay_for_their_checks_too() -> None:
    text = "".join(f"user{number}@example.com\n" for number in range(400))
    with pytest.raises(TooMuchToCheck):
        sent({"file_data": url(text)}, rules=Rules(actions(), most_checks=100))
    many = chat({"data": "x" * 20, "n": [[{}]] * 5000})
    with pytest.raises(TooMuchToCheck):
        Redactor(Rules(actions(), most_checks=100)).prompt(many)


def test_a_large_picture_or_document_with_nothing_to_hide_costs_next_to_nothing() -> None:
    for content, media_type in (
        (PNG + bytes(range(256)) * 8000, "image/png"),
        ("a word, " * 10**5, ""),
    ):
        body = chat({"type": "image_url", "image_url": {"url": url(content, media_type)}})
        assert Redactor(Rules(actions(), most_checks=10)).prompt(body) is body


BLOCKED: list[tuple[str, Any, str]] = [
    (
        "documents",
        {"type": "file", "file": {"file_data": url(PDF, "application/pdf")}},
        ".file_data",
    ),
    ("documents", {"type": "file", "file": {"file_data": b64(PDF)}}, ".file_data"),
    ("documents", {"type": "file", "file": {"file_id": "file-1"}}, ".file_id"),
    ("documents", {"type": "input_file", "file_url": "https://example.com/a"}, ".file_url"),
    ("documents", {"type": "image_url", "image_url": {"url": url(PDF, "image/png")}}, ".url"),
    (
        "documents",
        {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
        ".url",
    ),
    (
        "documents",
        {"source": {"type": "base64", "media_type": "application/pdf", "data": b64(PDF)}},
        ".data",
    ),
    ("documents", {"type": "x", "container": {"file_ids": ["file-1"]}}, ".file_ids"),
    ("images", {"type": "image_url", "image_url": {"url": url(PNG, "image/png")}}, ".url"),
    ("images", {"type": "image_url", "image_url": {"url": "https://example.com/a"}}, ".url"),
    ("images", {"type": "input_image", "file_id": "file-1"}, ".file_id"),
    ("images", {"type": "image", "source": {"type": "file", "file_id": "f"}}, ".file_id"),
    ("images", {"type": "text", "text": f"![x]({url(PNG, 'image/png')})"}, ".text"),
    (
        "audio",
        {
            "type": "input_audio",
            "input_audio": {"data": b64(b"RIFF\0\0\0\0WAVEfmt "), "format": "wav"},
        },
        ".data",
    ),
    ("video", {"type": "video_url", "video_url": {"url": "https://example.com/a"}}, ".url"),
]


@pytest.mark.parametrize(("kind", "given_part", "field"), BLOCKED)
def test_files_that_cannot_be_searched_are_refused_where_policy_says_so(
    kind: str, given_part: Any, field: str
) -> None:
    policy = privacy.parse(f"version: 1\nfiles: {{{kind}: block}}".encode())
    with pytest.raises(ContentRefused, match=kind) as refused:
        sent(given_part, rules=policy.rules(SOMEBODY))
    assert refused.value.violations[0].field.startswith("messages[0].content[0]")
    assert refused.value.violations[0].field.endswith(field)
    others = ", ".join(f"{other}: block" for other in ("images", "audio", "video") if other != kind)
    if kind != "documents" or "image" not in str(given_part):
        policy = privacy.parse(f"version: 1\nfiles: {{{others}}}".encode())
        assert sent(given_part, rules=policy.rules(SOMEBODY)) == chat(given_part)


def test_texts_and_words_are_no_files_that_cannot_be_searched() -> None:
    every = ", ".join(f"{kind}: block" for kind in ("documents", "images", "audio", "video"))
    rules = privacy.parse(f"version: 1\nfiles: {{{every}}}".encode()).rules(SOMEBODY)
    parts = (
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a b"}},
        {"type": "file", "file": {"file_data": url("a text")}},
        {"type": "tool_use", "input": {"data": "HelloWorld12", "file_id": "x", "url": "y"}},
        {"type": "text", "text": "an image_url"},
        {"type": "tool", "tools": [{"parameters": {"properties": {"image_url": "x"}}}]},
    )
    assert sent(*parts, rules=rules) == chat(*parts)
    body = chat({"type": "file", "file": {"file_data": url(PDF, "application/pdf")}})
    content = Content(redact=False)
    content.adopt(privacy.parse(b"version: 1\nfiles: {documents: block}"))
    redactor = content.redactor(SOMEBODY)
    assert redactor is not None
    with pytest.raises(ContentRefused):
        redactor.prompt(body)


def test_the_policy_of_files_is_a_setting_a_file_and_a_rule(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WEAVER_TLS_DIR", str(tmp_path))
    monkeypatch.setenv("WEAVER_PII_FILES", "documents=block, images=pass")
    chosen = load(RedactionSettings).file_actions
    policy = privacy.parse(
        b"version: 1\nfiles: {audio: block}\n"
        b"rules: [{match: {tenants: [t]}, files: {documents: pass}}]",
        files=chosen,
    )
    assert policy.rules(SOMEBODY).blocked_files == {"audio"}
    other = Principal("u", "apikey", "s", ("user",))
    assert policy.rules(other).blocked_files == {"audio", "documents"}
    for value, said in (("documents=redact", "documents"), ("pdf=block", "pdf")):
        monkeypatch.setenv("WEAVER_PII_FILES", value)
        with pytest.raises(SettingsError, match=f"WEAVER_PII_FILES.*{said}"):
            load(RedactionSettings)
    with pytest.raises(PrivacyError, match="pdf"):
        privacy.parse(b"version: 1\nfiles: {pdf: block}")


@settings(max_examples=200, derandomize=True)
@given(
    st.binary(max_size=120), st.sampled_from(["text/plain", "", "image/png", "x/y;charset=utf-16"])
)
def test_any_document_is_answered_for(content: bytes, media_type: str) -> None:
    for carried in (url(content, media_type), b64(content), f"data:{media_type},{quote(content)}"):
        body = chat({"data": carried, "media_type": media_type}, {"x": f"a {carried} b"})
        json.loads(Redactor().prompt(body))


@given(st.text(alphabet='data:;,bse64/tx%=+\\"QUJD \n', max_size=60))
def test_any_url_is_answered_for(text: str) -> None:
    body = chat({"u": text, "data": text}, {"u": f"data:{text}"})
    with suppress(Unsearchable):
        json.loads(Redactor().prompt(body))
