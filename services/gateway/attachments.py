"""Documents that a body carries within: text in base64 or behind percent signs, and files.

A text document is read and searched like the rest of a body. Whether something is text is decided
by what is declared and by what it looks like: either is enough, so that no false name hides a text.
Files that are none, such as pictures and PDF, cannot be searched here; policy may refuse them.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec
import re2

from services.gateway.effort import Effort
from services.gateway.text_encodings import declares_text, file_kind, is_file, looks_like_text

FILES: Final = ("audio", "documents", "images", "video")
"""What cannot be searched, as policies name it."""
TRIGGER: Final = (
    rb"(?i:data: {0,4}[a-z]{0,16} {0,4}[/;,\\])"
    rb'|"(?:(?:file_)?data|blob)(?:"[ \t\r\n]*:[ \t\r\n]*"|\\{1,15}")'
)
"""What of a raw body calls for a closer look, for a scanner; names spelled with escapes beside."""
_GATE: Final = re2.compile(TRIGGER + rb"|\\u00")
_MARK: Final = re.compile(rb'["{}\[\]]')
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_QUOTE: Final = ord('"')
_TOKENS_PER_CHECK: Final = 64
_COLON: Final = re.compile(rb"[ \t\r\n]*:")
_CARRIERS: Final = frozenset(("data", "file_data", "blob"))
_TYPES: Final = frozenset(("media_type", "mime_type", "mimeType", "mediaType"))
_WHOLE: Final = re.compile(r"\s*data:([^,]{0,1024}),(.*)", re.DOTALL | re.IGNORECASE)
# Within other text. A backslash stands before each slash of JSON in JSON.
_WITHIN: Final = re.compile(
    r"data:([a-z0-9.+-]{0,64}(?:\\{0,8}/[a-z0-9.+-]{1,80})?(?:;(?!base64,)[^,;\"'\s<>]{1,80}){0,5}"
    r"(?:;base64)?),((?<=;base64,)[a-z0-9+/=_%\\-]+|(?<!;base64,)[a-z0-9+/=_%\\.~!*;:@&$?#-]+)",
    re.IGNORECASE,
)
_ENCODED: Final = re.compile(r"[A-Za-z0-9+/\s_-]*+[=\s]*+")
# A picture says in its first bytes what it is, and need not be decoded whole.
_HEAD: Final = re.compile(
    rb'"(?:data:([a-z]{1,16}\\?/[A-Za-z0-9.+-]{1,80});base64,)?((?:[A-Za-z0-9+]|\\?/){64})'
)
_NO_ALPHABET: Final = re.compile(r"[\s=\\]+")
_URL_SAFE: Final = str.maketrans("-_", "+/")
_LEAST: Final = 8


class Attachment(NamedTuple):
    """What is carried by a string, or a part of one.

    Args:
        start: where it begins in the string.
        end: where it ends.
        before: what stands before the content.
        content: the content itself; None when it cannot be decoded.
        media_type: as declared, with parameters; None when nothing is declared.
        percent: whether it is written with percent signs rather than in base64.
        json: whether it is JSON as it stands, which may carry something in its turn.
    """

    start: int
    end: int
    before: str
    content: bytes | None
    media_type: str | None
    percent: bool
    json: bool = False

    @property
    def is_text(self) -> bool:
        """Whether it is searched."""
        return declares_text(self.media_type) or (
            self.content is not None and looks_like_text(self.content)
        )

    @property
    def kinds(self) -> frozenset[str]:
        """What it may be of `FILES` that cannot be searched; empty for a text."""
        if self.content is not None and looks_like_text(self.content):
            return frozenset()
        if self.media_type is None:
            # A word can be base64 too; what nobody calls a file must look like one.
            return frozenset(filter(None, (file_kind(self.content or b""),)))
        top = (self.media_type or "").partition("/")[0].strip().lower()
        look = file_kind(self.content or b"")
        declared = {"image": "images", "audio": "audio", "video": "video"}.get(top, "")
        return frozenset(kind for kind in (declared, look) if kind) or frozenset(("documents",))

    def encoded(self, content: bytes) -> str:
        """Return it with another content."""
        if self.json:
            return content.decode("utf-8", "surrogatepass")
        text = quote_from_bytes(content) if self.percent else base64.b64encode(content).decode()
        return self.before + text


class Carrier(NamedTuple):
    """A string of a body that carries something, or a part of a text that is no JSON.

    Args:
        start: where it begins in the body, with its quote.
        end: where it ends.
        text: what it says.
        carried: what it carries, from left to right.
        quoted: whether it is a string of JSON.
    """

    start: int
    end: int
    text: str
    carried: tuple[Attachment, ...]
    quoted: bool = True

    def is_whole(self, one: Attachment) -> bool:
        """Say whether the string is nothing but what it carries."""
        return self.quoted and (one.start, one.end) == (0, len(self.text))

    def literal(self, contents: dict[int, bytes]) -> bytes:
        """Return the string with other contents, by their place among those carried."""
        pieces, done = [], 0
        for number, one in enumerate(self.carried):
            if number in contents:
                pieces += [self.text[done : one.start], one.encoded(contents[number])]
                done = one.end
        text = "".join([*pieces, self.text[done:]])
        if not self.quoted:
            return text.encode("latin-1")
        return json.dumps(text, ensure_ascii=True).encode()


def may_carry(body: bytes) -> bool:
    """Say whether a body calls for a closer look."""
    return _GATE.search(body) is not None


def carriers(body: bytes, effort: Effort | None) -> Iterator[Carrier]:
    """Yield the strings of some JSON that carry something, from left to right."""
    types: list[str | None] = []
    late: list[list[tuple[int, int, str | None]]] = []
    name = ""
    for number, (start, end) in enumerate(_tokens(body)):
        if effort is not None and number % _TOKENS_PER_CHECK == 0:
            effort.spend(0)
        mark = body[start : start + 1]
        if mark in b"{[":
            types.append(None)
            late.append([])
        elif mark in b"}]":
            declared = types.pop() if types else None
            for first, last, assumed in late.pop() if late else ():
                yield from _carrier(body, first, last, declared or assumed)
        elif _COLON.match(body, end):
            name = _text(body[start:end]) if end - start < 64 else ""  # noqa: PLR2004 - no name of ours
            continue
        elif name in _TYPES and types:
            types[-1] = _text(body[start:end])[:256]
        elif name in _CARRIERS and late:
            # What it is may be declared behind it.
            late[-1].append(
                (start, end, "application/octet-stream" if name == "file_data" else None)
            )
        elif end - start > _LEAST and _GATE.search(body, start, end) is not None:
            yield from _carrier(body, start, end, None, bare=False)
        name = ""


def _tokens(body: bytes) -> Iterator[tuple[int, int]]:
    """Yield where strings and brackets stand; a long string without escapes costs little."""
    at = 0
    while (mark := _MARK.search(body, at)) is not None:
        start, at = mark.span()
        if body[start] == _QUOTE:
            at = body.find(b'"', at) + 1
            if at == 0 or body.find(b"\\", start, at) >= 0:
                string = _STRING.match(body, start)
                at = len(body) if string is None else string.end()
        yield start, at


def carriers_of_text(content: bytes) -> Iterator[Carrier]:
    """Yield the data URLs of a text that is no JSON."""
    text = content.decode("latin-1")
    for one in _within(text):
        url = text[one.start : one.end]
        yield Carrier(one.start, one.end, url, (one._replace(start=0, end=len(url)),), quoted=False)


def is_json(content: bytes) -> bool:
    """Say whether a document is JSON."""
    if content.lstrip()[:1] not in {b"{", b"["}:
        return False
    try:
        msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _within(text: str) -> tuple[Attachment, ...]:
    """Return what the data URLs within a text carry."""
    return tuple(
        _from_url(match.start(), match.end(), match[1].replace("\\", ""), match[2], match[0])
        for match in _WITHIN.finditer(text)
    )


def _carrier(
    body: bytes, start: int, end: int, declared: str | None, *, bare: bool = True
) -> Iterator[Carrier]:
    head = _HEAD.match(body, start, end)
    if head is not None and (head[1] or bare):
        media_type = head[1].replace(b"\\", b"").decode() if head[1] else declared
        content = base64.b64decode(head[2].replace(b"\\", b""))
        if is_file(content) and not declares_text(media_type):
            file = Attachment(0, 0, "", content, media_type, percent=False)
            yield Carrier(start, end, "", (file,))
            return
    text = _text(body[start:end])
    inner = text.encode("utf-8", "surrogatepass") if text[:1] in {"{", "["} else b""
    if inner and is_json(inner):
        nested = Attachment(0, len(text), "", inner, "application/json", percent=False, json=True)
        yield Carrier(start, end, text, (nested,))
        return
    url = _WHOLE.match(text)
    if url is not None:
        carried: tuple[Attachment, ...] = (_from_url(0, len(text), url[1], url[2], text),)
    elif bare and (found := _bare(text, declared)) is not None:
        carried = (found,)
    else:
        carried = _within(text)
    if carried:
        yield Carrier(start, end, text, carried)


def _from_url(start: int, end: int, declared: str, payload: str, whole: str) -> Attachment:
    """Return what a data URL carries (RFC 2397); its media type is text where it names none."""
    parts = [part.strip() for part in declared.split(";")]
    in_base64 = any(part.lower() == "base64" for part in parts[1:] if part) or (
        parts[0].lower() == "base64"
    )
    if "/" not in parts[0]:
        parts[0] = "text/plain"
    media_type = ";".join(part for part in parts if part.lower() != "base64")
    before = whole[: len(whole) - len(payload)]
    if not in_base64:
        content = unquote_to_bytes(payload) if "%" in payload else b""
        return Attachment(start, end, before, content, media_type, percent=True)
    if "%" in payload:
        payload = unquote_to_bytes(payload).decode("latin-1")
    return Attachment(start, end, before, _decoded(payload), media_type, percent=False)


def _bare(text: str, declared: str | None) -> Attachment | None:
    """Return what stands in base64 without a URL around it; None for a text that is none."""
    content = _decoded(text) if len(text) >= _LEAST else None
    if content is None:
        return None
    return Attachment(0, len(text), "", content, declared, percent=False)


def _decoded(text: str) -> bytes | None:
    """Return what base64 says in any of its spellings; None where two readers could differ.

    White space, the alphabet of URLs and padding that is missing are read like decoders do that
    are known; anything else is read by some and refused by others.
    """
    if _ENCODED.fullmatch(text.replace("\\", "")) is None:
        return None
    digits = _NO_ALPHABET.sub("", text).translate(_URL_SAFE)
    if len(digits) % 4 == 1:
        # A digit too many says six bits, which is no byte.
        digits = digits[:-1]
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4))
    except (binascii.Error, ValueError):
        return None


def _text(literal: bytes) -> str:
    if b"\\" not in literal:
        return literal[1:-1].decode("utf-8", "surrogateescape")
    try:
        text: str = json.loads(literal, strict=False)
    except ValueError:
        return ""
    return text
