"""Anthropic's content blocks as OpenAI's content parts."""

from typing import Any

from services.model.dialects.fields import Fields
from services.model.failure import untranslatable

_PDF = "application/pdf"


def plain(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Return one text as most clients write it, anything else as a list."""
    text: str | None = parts[0].get("text") if len(parts) == 1 else None
    return parts if text is None else text


def text_part(block: Fields, other: str) -> dict[str, Any]:
    """Return a block of text as a part, its type taken before."""
    part = {"type": "text", "text": block.required("text")}
    block.leave_out("cache_control", "citations")
    block.end(other)
    return part


def user_part(block: Fields, kind: str, other: str) -> list[dict[str, Any]]:
    """Return what a user says as parts.

    Args:
        block: the block, its type taken before.
        kind: its type.
        other: what the other dialect is called.

    Raises:
        ProviderError: it has no counterpart.
    """
    if kind == "text":
        return [text_part(block, other)]
    if kind == "image":
        part = {"type": "image_url", "image_url": {"url": _image(block, other)}}
        block.leave_out("cache_control")
        block.end(other)
        return [part]
    if kind == "document":
        return _document(block, other)
    raise untranslatable(block.at("type"), f"`{kind[:64]}` has no counterpart in {other}.")


def result_content(block: Fields, other: str) -> str | list[dict[str, Any]]:
    """Return what a tool answered; OpenAI's tools answer with text alone."""
    if not block.has("content"):
        return ""
    blocks = block.blocks("content")
    if isinstance(blocks, str):
        return blocks
    parts = []
    for item in blocks:
        if item.required("type") != "text":
            raise untranslatable(
                item.at("type"), f"must be text in the result of a tool for {other}."
            )
        parts.append(text_part(item, other))
    return plain(parts) if parts else ""


def _image(block: Fields, other: str) -> str:
    source = block.child("source")
    if source is None:
        raise untranslatable(block.at("source"), "is required.")
    kind = source.required("type")
    if kind == "base64":
        url = f"data:{source.required('media_type')};base64,{source.required('data')}"
    elif kind == "url":
        url = source.required("url")
    else:
        raise untranslatable(source.at("type"), f"must be base64 or url for {other}.")
    source.end(other)
    return url


def _document(block: Fields, other: str) -> list[dict[str, Any]]:
    """Return a document: a PDF as a file, a text as text under its title."""
    source = block.child("source")
    if source is None:
        raise untranslatable(block.at("source"), "is required.")
    kind = source.required("type")
    title, context = block.text("title"), block.text("context")
    if (citations := block.child("citations")) is not None:
        citations.neutral("enabled", False)  # noqa: FBT003 - the value that changes nothing
        citations.end(other)
    block.leave_out("cache_control")
    parts: list[dict[str, Any]] = []
    if kind == "base64":
        media_type = source.required("media_type")
        if media_type != _PDF:
            raise untranslatable(source.at("media_type"), f"must be {_PDF}.")
        data = f"data:{media_type};base64,{source.required('data')}"
        file = {"filename": title or "document.pdf", "file_data": data}
        parts.append({"type": "file", "file": file})
        title = None
    elif kind == "text":
        source.take("media_type")
        parts.append({"type": "text", "text": source.required("data")})
    elif kind == "content":
        content = source.blocks("content")
        if isinstance(content, str):
            parts.append({"type": "text", "text": content})
        else:
            parts += [part for item in content for part in _inner(item, other)]
    else:
        raise untranslatable(source.at("type"), f"must be base64, text or content for {other}.")
    source.end(other)
    block.end(other)
    about = [{"type": "text", "text": text} for text in (title, context) if text]
    return [*about, *parts]


def _inner(item: Fields, other: str) -> list[dict[str, Any]]:
    kind = item.required("type")
    if kind == "document":
        raise untranslatable(item.at("type"), "must be text or image.")
    return user_part(item, kind, other)
