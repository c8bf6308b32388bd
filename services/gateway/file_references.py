"""Files that a body brings by an address or an id, which nobody here can look into."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

# By an object's `type`, and by the names of its members: what it brings from elsewhere.
_KINDS: Final = {
    "image": "images",
    "image_url": "images",
    "input_image": "images",
    "computer_screenshot": "images",
    "image_file": "images",
    "document": "documents",
    "file": "documents",
    "input_file": "documents",
    "container_upload": "documents",
    "input_audio": "audio",
    "audio_url": "audio",
    "audio": "audio",
    "video_url": "video",
    "video": "video",
    "input_video": "video",
}
_MEMBERS: Final = {
    "image_url": "images",
    "file_id": "documents",
    "file_url": "documents",
    "audio_url": "audio",
    "video_url": "video",
    "url": "documents",
}
# What the client itself made or calls.
_OWN: Final = frozenset(("input", "arguments", "parameters", "input_schema", "metadata", "tools"))


def references(body: bytes) -> Iterator[tuple[str, str]]:
    """Yield the kind of what a body brings by an address or an id, and where it stands."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    yield from _references(value, "", "")


def _references(value: Any, path: str, around: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - any JSON
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _references(item, f"{path}[{index}]", around)
    if not isinstance(value, dict):
        return
    kind = around or _KINDS.get(str(value.get("type")), "")
    for name, item in value.items():
        inner = f"{path}.{name}" if path else name
        own = _MEMBERS.get(name)
        if own is not None and isinstance(item, str):
            if (kind or name != "url") and item.lstrip()[:5].lower() != "data:":
                yield kind or own, inner
        elif name == "file_ids" and item:
            yield "documents", inner
        elif isinstance(item, list | dict) and (name not in _OWN or not path):
            yield from _references(item, inner, kind if name == "source" else own or "")
