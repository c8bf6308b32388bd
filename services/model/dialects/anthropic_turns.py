"""OpenAI's messages as Anthropic's: instructions apart, turns in blocks.

Anthropic wants every result of parallel tools in the one turn after their calls, so that what
follows each other in one role is one turn.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from services.model.call import UNREADABLE
from services.model.dialects.fields import Fields
from services.model.failure import untranslatable

_DATA: Final = re.compile(r"data:([a-z]+/[a-z0-9.+-]+);base64,(.*)", re.DOTALL | re.IGNORECASE)
_PDF: Final = "application/pdf"
_IMAGES: Final = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_THINKING: Final = frozenset({"thinking", "redacted_thinking"})


class Turns:
    """A conversation as Anthropic takes it.

    Args:
        messages: OpenAI's.
        other: what the other dialect is called.

    Raises:
        ProviderError: naming what has no counterpart.
    """

    def __init__(self, messages: Iterator[Fields], other: str) -> None:
        """See the class."""
        self.system: list[dict[str, Any]] = []
        """What stands before the conversation."""
        self.messages: list[dict[str, Any]] = []
        self._other = other
        for message in messages:
            self._take(message)
            message.leave_out("name")
            message.end(other)

    def _take(self, message: Fields) -> None:
        role = message.required("role")
        if role in {"system", "developer"}:
            if self.messages:
                what = f"must not follow the conversation as {role}: {self._other} want it before."
                raise untranslatable(message.at("role"), what)
            self.system += self._texts(message)
        elif role == "user":
            self._add("user", self._said(message))
        elif role == "assistant":
            self._add("assistant", self._assistant(message))
        elif role == "tool":
            result: dict[str, Any] = {
                "type": "tool_result",
                "tool_use_id": message.required("tool_call_id"),
            }
            if content := self._texts(message):
                result["content"] = _plain(content)
            self._add("user", [result])
        else:
            what = "must be system, developer, user, assistant or tool."
            raise untranslatable(message.at("role"), what)

    def _add(self, role: str, blocks: list[dict[str, Any]]) -> None:
        if self.messages and self.messages[-1]["role"] == role:
            self.messages[-1]["content"] += blocks
        else:
            self.messages.append({"role": role, "content": blocks})

    def _texts(self, message: Fields) -> list[dict[str, Any]]:
        content = message.blocks("content")
        if isinstance(content, str):
            return _text(content)
        return [block for part in content for block in self._text_part(part, part.required("type"))]

    def _text_part(self, part: Fields, kind: str) -> list[dict[str, Any]]:
        if kind not in {"text", "refusal"}:
            raise untranslatable(part.at("type"), f"must be text for {self._other}.")
        blocks = _text(part.required(kind))
        part.end(self._other)
        return blocks

    def _said(self, message: Fields) -> list[dict[str, Any]]:
        content = message.blocks("content")
        if isinstance(content, str):
            return _text(content)
        return [block for part in content for block in self._part(part)]

    def _part(self, part: Fields) -> list[dict[str, Any]]:
        kind = part.required("type")
        if kind == "image_url":
            block = _image(part, self._other)
        elif kind == "file":
            block = _file(part, self._other)
        elif kind == "text":
            return self._text_part(part, kind)
        else:
            what = f"`{kind[:64]}` has no counterpart in {self._other}."
            raise untranslatable(part.at("type"), what)
        part.end(self._other)
        return [block]

    def _assistant(self, message: Fields) -> list[dict[str, Any]]:
        thoughts = [self._thought(thought) for thought in message.children("thinking_blocks")]
        if thoughts:
            message.take("reasoning_content")
        message.leave_out("reasoning_content", "reasoning", "annotations")
        texts = self._texts(message) if message.has("content") else []
        refusal = message.text("refusal")
        calls = [self._call(call) for call in message.children("tool_calls")]
        return [*thoughts, *texts, *_text(refusal or ""), *calls]

    def _thought(self, thought: Fields) -> dict[str, Any]:
        kind = thought.required("type")
        if kind not in _THINKING:
            raise untranslatable(thought.at("type"), "must be thinking or redacted_thinking.")
        names = ("thinking", "signature") if kind == "thinking" else ("data",)
        block = {"type": kind} | {name: thought.required(name) for name in names}
        thought.end(self._other)
        return block

    def _call(self, call: Fields) -> dict[str, Any]:
        if (call.text("type") or "function") != "function":
            raise untranslatable(call.at("type"), f"must be function for {self._other}.")
        function = call.child("function")
        if function is None:
            raise untranslatable(call.at("function"), "is required.")
        call.take("index")
        block = {
            "type": "tool_use",
            "id": call.required("id"),
            "name": function.required("name"),
            "input": _arguments(function),
        }
        function.end(self._other)
        call.end(self._other)
        return block


def _text(text: str) -> list[dict[str, Any]]:
    """Return a text as a block; Anthropic wants none that is empty."""
    return [{"type": "text", "text": text}] if text else []


def _plain(blocks: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    text: str = blocks[0]["text"]
    return text if len(blocks) == 1 else blocks


def _arguments(function: Fields) -> dict[str, Any]:
    try:
        arguments = msgspec.json.decode(function.text("arguments") or "{}")
    except UNREADABLE:
        arguments = None
    if not isinstance(arguments, dict):
        raise untranslatable(function.at("arguments"), "must be the JSON of an object.")
    return arguments


def _image(part: Fields, other: str) -> dict[str, Any]:
    image = part.child("image_url")
    if image is None:
        raise untranslatable(part.at("image_url"), "is required.")
    url = image.required("url")
    image.neutral("detail", "auto")
    image.leave_out("detail")
    image.end(other)
    source: dict[str, Any] = {"type": "url", "url": url}
    if url[:5].lower() == "data:":
        data = _DATA.fullmatch(url)
        if data is None or data[1].lower() not in _IMAGES:
            what = (
                f"must be a link, or a data URI in base64 of one of {', '.join(sorted(_IMAGES))}."
            )
            raise untranslatable(image.at("url"), what)
        source = {"type": "base64", "media_type": data[1].lower(), "data": data[2]}
    return {"type": "image", "source": source}


def _file(part: Fields, other: str) -> dict[str, Any]:
    file = part.child("file")
    if file is None:
        raise untranslatable(part.at("file"), "is required.")
    data = _DATA.fullmatch(file.text("file_data") or "")
    kind = "" if data is None else data[1].lower()
    if data is None or kind not in {_PDF, "text/plain"}:
        what = f"must be a data URI in base64 of {_PDF} or text/plain for {other}."
        raise untranslatable(file.at("file_data"), what)
    source: dict[str, Any] = {"type": "base64", "media_type": kind, "data": data[2]}
    if kind != _PDF:
        try:
            text = base64.b64decode(data[2], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise untranslatable(file.at("file_data"), "must hold UTF-8 text.") from None
        source = {"type": "text", "media_type": kind, "data": text}
    block: dict[str, Any] = {"type": "document", "source": source}
    title = file.text("filename")
    if title:
        block["title"] = title
    file.end(other)
    return block
