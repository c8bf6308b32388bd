"""Edits of JSON that leave every other byte as it came.

Numbers such as `1e5`, the order of keys, white space and unknown fields survive, because nothing is
decoded and encoded again. The text must be one valid JSON object: callers have decoded it before.
"""

import re

_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\],:]', re.DOTALL)
_SPACE = b" \t\r\n"


def append_field(text: bytes, name: bytes, value: bytes) -> bytes:
    """Return an object with one more field at its end; a decoder takes the last of two equals."""
    end = text.rindex(b"}")
    comma = b"" if text[:end].rstrip(_SPACE).endswith(b"{") else b","
    return b"".join((text[:end], comma, b'"', name, b'":', value, text[end:]))


def replace_field(text: bytes, name: bytes, value: bytes) -> bytes:
    """Return an object with another value in a field of its top level, the last one of that name.

    A name that is not there, or that is written with escapes, is appended.
    """
    span = _value_span(text, name)
    if span is None:
        return append_field(text, name, value)
    start, end = span
    return text[:start] + value + text[end:]


def field(text: bytes, name: bytes) -> bytes | None:
    """Return the bytes of a top-level field's value, the last one of that name; None without."""
    span = _value_span(text, name)
    return None if span is None else text[span[0] : span[1]]


def _value_span(text: bytes, name: bytes) -> tuple[int, int] | None:
    quoted = b'"' + name + b'"'
    if quoted not in text:
        return None
    depth = 0
    key = b""
    start = 0
    found: tuple[int, int] | None = None
    for token in _TOKEN.finditer(text):
        kind = token[0]
        if kind in b"{[":
            depth += 1
        elif depth == 1 and kind in b",}":
            if key == quoted:
                found = _trimmed(text, start, token.start())
            key = b""
            depth -= kind == b"}"
        elif kind in b"}]":
            depth -= 1
        elif depth == 1 and kind == b":":
            start = token.end()
        elif depth == 1 and not key:
            key = kind
    return found


def _trimmed(text: bytes, start: int, end: int) -> tuple[int, int]:
    value = text[start:end]
    start += len(value) - len(value.lstrip(_SPACE))
    return start, start + len(value.strip(_SPACE))
