"""What no request may be, whatever it asks: a bomb, a way inwards, more than there may be.

A body is read once by a strict reader: no name twice in one object, no number that is none or
that no reader holds, no control character. What is fetched on behalf of a caller must lead
outwards. Unknown fields pass.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final, Literal, NoReturn

import msgspec
import re2

from services.common.errors import InvalidArgument
from services.gateway.body import wrong
from services.gateway.effort import MOST_CHECKS, Effort
from services.gateway.folding import Shadow, plain_text
from services.gateway.json_places import place
from services.gateway.urls import URLRules, host

_LONGEST_NUMBER: Final = 64
# An escaped control character, behind an even number of backslashes.
_CONTROLS: Final = {
    "none": re.compile(rb"(?<!\\)(?:\\\\)*+\\(?:u00(?:[01][0-9a-fA-F](?<!0[9aAdD])|7[fF])|[bf])"),
    "terminal": re.compile(rb"(?<!\\)(?:\\\\)*+\\u00(?:0[0-6eEfF]|1[0-9acdefACDEF]|7[fF])"),
}
# What calls for a closer look: an escape that could be a control character, or a part of the name
# of a member by which something is fetched.
_CLOSER: Final = re2.compile(rb'\\u00|\\[bf]|"(?:image_|video_|audio_|file_|server_)?url"')
_FETCHED: Final = {
    "image_url": ("image_url",),
    "video_url": ("video_url",),
    "audio_url": ("audio_url",),
    "input_image": ("image_url",),
    "input_file": ("file_url",),
    "computer_screenshot": ("image_url",),
    "mcp": ("server_url",),
    "url": ("url",),
}
"""By an object's `type`, its members that are fetched."""
_FETCHED_ANYWAY: Final = ("image_url", "video_url", "audio_url", "file_url")
"""The same of an object that has no type, as of a mask, and as some servers take any part."""
# What no one fetches: the arguments of a tool, which the client itself calls.
_NOT_FETCHED: Final = frozenset(("input", "arguments", "parameters", "input_schema", "metadata"))
_URL: Final = re.compile(
    rb"(?i:(?<![A-Za-z0-9])(?:https?|wss?|ftp)):[\x01\\]*/[\x01\\]*/[^\s\x22'<>\x01\\]+"
)

Controls = Literal["none", "terminal", "all"]


class GuardSettings(msgspec.Struct, frozen=True):
    """What a request may be at most.

    Args:
        max_messages: the most messages, or items of an input.
        max_tools: the most tools.
        max_depth: how deep arrays and objects may stand in one another.
        controls: which control characters pass beside white space: none, those that terminals
            write, or all.
        references: what may be fetched on behalf of a caller.
        links: which hosts the text of a prompt may name; None for all.
    """

    max_messages: int = 4096
    max_tools: int = 256
    max_depth: int = 128
    controls: Controls = "terminal"
    references: URLRules = URLRules()
    links: URLRules | None = None


class Guard:
    """Checks bodies.

    Args:
        settings: what they may be at most.
    """

    __slots__ = ("settings",)

    def __init__(self, settings: GuardSettings = GuardSettings()) -> None:  # noqa: B008 - frozen
        """See the class."""
        self.settings = settings

    def check(self, body: bytes) -> None:
        """Refuse a body that must not go on.

        Raises:
            InvalidArgument: naming the field.
        """
        settings = self.settings
        value = _read(body)
        if not isinstance(value, dict):
            raise InvalidArgument("The body must be a JSON object.")
        # Brackets inside of texts count too, so that only a few bodies need the closer look.
        if body.count(b"{") + body.count(b"[") > settings.max_depth:
            _check_depth(value, settings.max_depth)
        _check_count(value, ("messages", "input"), settings.max_messages)
        _check_count(value, ("tools", "functions"), settings.max_tools)
        if _CLOSER.search(body) is not None:
            _check_controls(body, settings.controls)
            for path, url in _references(value, ""):
                problem = settings.references.problem(url)
                if problem:
                    raise wrong(path, problem)
        if settings.links is not None:
            _check_links(body, settings.links)


def _read(body: bytes) -> Any:  # noqa: ANN401 - any JSON
    try:
        return _STRICT.decode(body.decode())
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"The body is not valid UTF-8 at byte {error.start}.") from None
    except RecursionError:
        raise InvalidArgument("The body is nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise InvalidArgument(
            f"The body is not valid JSON: {error.msg} at character {error.pos}."
        ) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise wrong(twice[:64] if twice.isidentifier() else "body", "stands twice in one object")
    return members


def _no_number(text: str) -> NoReturn:
    raise InvalidArgument(f"The body is not valid JSON: {text[:9]} is no number.")


def _finite(text: str) -> float:
    number = float(text)
    if len(text) > _LONGEST_NUMBER or not math.isfinite(number):
        raise InvalidArgument(_HUGE)
    return number


def _whole(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise InvalidArgument(_HUGE)
    return int(text)


_HUGE: Final = (
    f"The body holds a number that is too large, or of more than {_LONGEST_NUMBER} digits."
)


_STRICT: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_finite, parse_int=_whole
)


def _check_depth(value: Any, most: int) -> None:  # noqa: ANN401 - any JSON
    level = [value]
    for _ in range(most):
        below: list[Any] = []
        for item in level:
            inner = item.values() if isinstance(item, dict) else item
            below += [one for one in inner if isinstance(one, dict | list)]
        if not below:
            return
        level = below
    raise InvalidArgument(f"The body is nested too deeply: {most} levels are allowed.")


def _check_controls(body: bytes, controls: Controls) -> None:
    pattern = _CONTROLS.get(controls)
    control = None if pattern is None else pattern.search(body)
    if control is not None:
        raise wrong(place(body, control.end() - 1), "must not hold control characters")


def _check_count(body: dict[str, Any], names: tuple[str, ...], most: int) -> None:
    for name in names:
        items = body.get(name)
        if isinstance(items, list) and len(items) > most and isinstance(items[0], dict):
            raise wrong(name, f"must hold at most {most} items")


def _references(value: Any, path: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - any JSON
    """Yield what would be fetched, and where it stands."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _references(item, f"{path}[{index}]")
        return
    if not isinstance(value, dict):
        return
    kind = value.get("type")
    fetched = _FETCHED.get(kind, ()) if isinstance(kind, str) else _FETCHED_ANYWAY
    for name, item in value.items():
        inner = f"{path}.{name}" if path else name
        if name in fetched:
            url = item.get("url") if isinstance(item, dict) else item
            if isinstance(url, str):
                yield f"{inner}.url" if isinstance(item, dict) else inner, url
        elif name not in _NOT_FETCHED or path == "":
            yield from _references(item, inner)


def _check_links(body: bytes, rules: URLRules) -> None:
    shadow = Shadow(body, Effort(MOST_CHECKS))
    for match in _URL.finditer(shadow.data):
        problem = rules.host_problem(host(plain_text(match.group()).decode("utf-8", "replace")))
        if problem:
            raise wrong(place(body, shadow.at(match.start())), f"{problem} (in a link)")
