"""A request's JSON body as the gateway reads it, whatever the dialect.

A few fields decide; they are checked, and a wrong one is named as the vendor names it. Everything
else passes. What policy changes is spliced into the bytes that came.
"""

import re
from collections.abc import Iterator
from typing import Final, TypeVar

import msgspec

from services.common.errors import FieldViolation, InvalidArgument

BYTES_PER_TOKEN: Final = 4
LARGEST_WITHOUT_FILES: Final = 16 * 1024
IMAGE_TOKENS: Final = 4096
PDF_BYTES_PER_TOKEN: Final = 16
TWICE: Final = 2

Request = TypeVar("Request")

_PATH: Final = re.compile(
    r"^(?P<what>.*?)(?: - at `(?:key in )?\$\.?(?P<path>[^`]*)`)?$", re.DOTALL
)
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\]]', re.DOTALL)
_COLON: Final = re.compile(rb"[ \t\r\n]*:")
# A file in base64, bare or inside a data URI.
_FILE: Final = re.compile(rb'"(?:data:[A-Za-z0-9/+.-]++;base64,)?+[A-Za-z0-9+/\\]{4096,}+=*+"')
_PDF: Final = b"JVBERi"


def decode(
    decoder: "msgspec.json.Decoder[Request]", deciding: tuple[bytes, ...], body: bytes
) -> Request:
    """Decode a body.

    Args:
        decoder: for the fields that decide.
        deciding: their names, in quotes.
        body: the client's JSON.

    Raises:
        InvalidArgument: naming the field.
    """
    if not body.isascii():
        _check_utf8(body)
    try:
        request = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _validation_error(str(error)) from None
    except RecursionError:
        raise InvalidArgument("The body is nested too deeply.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"The body is not valid JSON: {error}.") from None
    _check_names(body, deciding)
    return request


def quoted(*names: str) -> tuple[bytes, ...]:
    """Return names of members as they stand in a body."""
    return tuple(f'"{name}"'.encode() for name in names)


def check_model(model: str) -> None:
    """Refuse a body that names no model.

    Raises:
        InvalidArgument: naming the field.
    """
    if not model:
        raise wrong("model", "must name a model")


def check_whole(field: str, value: float | None, least: int = 1) -> None:
    """Refuse a number that is not whole or too small.

    Raises:
        InvalidArgument: naming the field.
    """
    if value is not None and (value < least or value != int(value)):
        raise wrong(field, f"must be a whole number of at least {least}")


def wrong(field: str, description: str) -> InvalidArgument:
    """Return the error for a field."""
    return InvalidArgument(
        f"`{field}` {description}."
        if not description.startswith("expected")
        else f"`{field}`: {description}.",
        violations=(FieldViolation(field, description),),
    )


def prompt_tokens(body: bytes) -> int:
    """Estimate the most tokens of a prompt: four bytes are one, and a file counts by its kind."""
    tokens = len(body) // BYTES_PER_TOKEN + 1
    if len(body) <= LARGEST_WITHOUT_FILES:
        return tokens
    for file in _FILE.finditer(body):
        size = file.end() - file.start()
        of_text = size // BYTES_PER_TOKEN
        is_pdf = body.find(_PDF, file.start(), file.start() + 64) >= 0
        of_file = size // PDF_BYTES_PER_TOKEN if is_pdf else IMAGE_TOKENS
        tokens -= max(0, of_text - of_file)
    return tokens


def text_tokens(body: bytes) -> int:
    """Estimate the tokens of a prompt's texts alone, from below: no files, no syntax."""
    texts = (
        token
        for token in _TOKEN.finditer(body)
        if body[token.start()] == ord('"') and not _COLON.match(body, token.end())
    )
    size = sum(
        token.end() - token.start() - 2 for token in texts if not _FILE.fullmatch(token.group())
    )
    return size // BYTES_PER_TOKEN


def capped(body: bytes, field: str, value: float | None, most: int) -> bytes:
    """Return a body whose number in a top-level member allows no more than the deployment."""
    return body if value is None or value <= most else _replace_number(body, field, most)


def _check_utf8(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"The body is not valid UTF-8 at byte {error.start}.") from None


def _check_names(body: bytes, deciding: tuple[bytes, ...]) -> None:
    """Refuse a body in which a field that decides stands twice, or is spelled with escapes.

    A provider may read such a body in another way than the gateway did.
    """
    if b"\\u00" not in body and all(body.count(name) < TWICE for name in deciding):
        return
    seen: set[str] = set()
    for literal in _names(body):
        name = msgspec.json.decode(literal, type=str)
        if f'"{name}"'.encode() not in deciding:
            continue
        if name in seen:
            raise wrong(name, "stands twice")
        if literal != f'"{name}"'.encode():
            raise wrong(name, "is spelled with escapes")
        seen.add(name)


def _names(body: bytes) -> Iterator[bytes]:
    """Yield the names of the top-level members, as they stand."""
    depth = 0
    for token in _TOKEN.finditer(body):
        character = body[token.start()]
        if character in b"{[":
            depth += 1
        elif character in b"}]":
            depth -= 1
        elif depth == 1 and _COLON.match(body, token.end()):
            yield token.group()


def _validation_error(text: str) -> InvalidArgument:
    """Turn msgspec's sentence into one about a field."""
    match = _PATH.match(text)
    what, path = (match["what"], match["path"] or "") if match else (text, "")
    missing = re.fullmatch(r"Object missing required field `([^`]+)`", what)
    if missing:
        path = f"{path}.{missing[1]}" if path else missing[1]
        return wrong(path, "is required")
    return wrong(path or "body", what[:1].lower() + what[1:])


def _replace_number(body: bytes, field: str, value: int) -> bytes:
    """Replace the number of a top-level member, every time it stands there."""
    pattern = re.compile(rb'"' + field.encode() + rb'"([ \t\r\n]*:[ \t\r\n]*)-?[0-9.eE+-]+')
    pieces: list[bytes] = []
    done = depth = 0
    for token in _TOKEN.finditer(body):
        character = body[token.start()]
        if character in b"{[":
            depth += 1
        elif character in b"}]":
            depth -= 1
        elif depth == 1 and (member := pattern.match(body, token.start())):
            number = member.end(1)
            pieces += body[done:number], str(value).encode()
            done = member.end()
    return b"".join([*pieces, body[done:]])
