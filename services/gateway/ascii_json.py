"""JSON that fits into an HTTP header: ASCII alone, and short."""

import msgspec

MAX_ERROR_BODY = 4096


def ascii_json(value: object) -> bytes:
    """Return a value as JSON in which every other character than ASCII is escaped."""
    text = msgspec.json.encode(value).decode()
    if text.isascii():
        return text.encode()
    return "".join(
        character if character.isascii() else _escape(character) for character in text
    ).encode()


def _escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
