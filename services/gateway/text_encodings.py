"""Whether some bytes are text, and in which encoding a search has to read them."""

import re
from typing import Final

_TEXT_TYPES: Final = re.compile(
    r"(?:text|message)/.*|[^/]+/(?:[^/]+\+)?(?:json|xml|yaml)|application/(?:x-)?(?:ndjson|jsonl|"
    r"jsonlines|json5|yaml|toml|csv|sql|javascript|ecmascript|typescript|sh|shellscript|python|ruby|"
    r"perl|php|httpd-php|graphql|rtf|tex|latex|subrip|www-form-urlencoded|pem-file|mbox)"
)
# How files begin that are no text, whatever is in them.
_FILES: Final = re.compile(
    rb"%PDF|PK\x03\x04|PK\x05\x06|\x89PNG|\xff\xd8\xff|GIF8|RIFF|ID3|OggS|fLaC|\x1f\x8b|BZh|\xfd7zXZ"
    rb"|7z\xbc\xaf|Rar!|\xd0\xcf\x11\xe0|II\*\x00|MM\x00\*|\x00\x00\x01\x00|....ftyp|\x1aE\xdf\xa3|wOF",
    re.DOTALL,
)
_KINDS: Final = (
    ("images", re.compile(rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....WEBP|II\*\x00|MM\x00\*", re.DOTALL)),
    ("audio", re.compile(rb"RIFF....WAVE|ID3|OggS|fLaC|\xff[\xe2-\xfb]", re.DOTALL)),
    ("video", re.compile(rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", re.DOTALL)),
    ("documents", re.compile(rb"%PDF|PK\x03\x04|\xd0\xcf\x11\xe0|\x1f\x8b")),
)
# Encodings in which ASCII is not ASCII, or a letter takes a zero.
_OTHER: Final = re.compile(r"utf-?(?:7|16|32)(?:-?[lb]e)?", re.IGNORECASE)
_CHARSET: Final = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9_-]{1,32})", re.IGNORECASE)
_MARKS: Final = (
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_SAMPLE: Final = 8192
_MOSTLY: Final = 0.85
_ORDINARY: Final = bytes((9, 10, 12, 13, *range(32, 127)))


def declares_text(media_type: str | None) -> bool:
    """Say whether a media type is one of texts."""
    if media_type is None:
        return False
    return _TEXT_TYPES.fullmatch(media_type.partition(";")[0].strip().lower()) is not None


def is_file(content: bytes) -> bool:
    """Say whether bytes begin like a file that is no text."""
    return _FILES.match(content) is not None


def looks_like_text(content: bytes) -> bool:
    """Say whether bytes are text by their look."""
    if is_file(content):
        return False
    name = encoding(content, None)
    if name is not None:
        text = content[: _SAMPLE // 4 * 4].decode(name, "replace")
        odd = sum(
            not (letter.isprintable() or letter.isspace()) for letter in text.lstrip("\ufeff")
        )
        return odd <= len(text) * (1 - _MOSTLY)
    sample = content[:_SAMPLE]
    if b"\0" in sample:
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        # One of the old encodings, in which most of a text is ASCII all the same.
        return len(sample.translate(None, _ORDINARY)) <= len(sample) * (1 - _MOSTLY)
    return True


def encoding(content: bytes, media_type: str | None) -> str | None:
    """Return the encoding that a search must undo; None where ASCII stands as ASCII."""
    for mark, name in _MARKS:
        if content.startswith(mark):
            return name
    declared = _CHARSET.search(media_type or "")
    name = declared[1].lower().replace("_", "-") if declared is not None else ""
    sample = content[:_SAMPLE]
    zeros = sample.count(0)
    if len(sample) >= 4 and zeros * 3 >= len(sample):  # noqa: PLR2004 - two letters; a third is zeros
        if zeros * 3 >= len(sample) * 2:
            return "utf-32-be" if sample[:2] == b"\0\0" else "utf-32-le"
        return "utf-16-be" if sample[0::2].count(0) > sample[1::2].count(0) else "utf-16-le"
    if _OTHER.fullmatch(name) is None:
        return None
    return name if name.endswith(("le", "be", "7")) else f"{name}-be"


def file_kind(content: bytes) -> str:
    """Return what a file is by its first bytes; "" when they do not tell."""
    return next((kind for kind, begin in _KINDS if begin.match(content)), "")
