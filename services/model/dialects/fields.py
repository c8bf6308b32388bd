"""One JSON object of a request, taken apart member by member, so that nothing is lost unsaid.

Each member is taken, left out by name, or refused by name; `end` refuses what nobody spoke of. A
member that is null is as if it were not there.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

from services.model.failure import untranslatable

_Kind = TypeVar("_Kind")
_LONGEST_NAME = 64


class Fields:
    """The members of one object.

    Args:
        value: any JSON; anything but an object is refused.
        path: where it stands in the body; empty for the body itself.
        left_out: takes the names of hints that are left out.
    """

    __slots__ = ("_left_out", "_members", "_path")

    def __init__(self, value: object, path: str, left_out: set[str]) -> None:
        """See the class."""
        if not isinstance(value, dict):
            raise untranslatable(path or "body", "must be an object.")
        self._members = {name: member for name, member in value.items() if member is not None}
        self._path = path
        self._left_out = left_out

    def at(self, name: str) -> str:
        """Return where a member stands in the body."""
        name = name[:_LONGEST_NAME]
        return f"{self._path}.{name}" if self._path else name

    def take(self, name: str) -> Any:  # noqa: ANN401 - any JSON
        """Return a member of any kind; None without."""
        return self._members.pop(name, None)

    def text(self, name: str) -> str | None:
        """Return a text; None without."""
        return self._of(name, str, "a text")

    def required(self, name: str) -> str:
        """Return a text that must be there."""
        text = self.text(name)
        if text is None:
            raise untranslatable(self.at(name), "is required.")
        return text

    def flag(self, name: str) -> bool | None:
        """Return true or false; None without."""
        return self._of(name, bool, "true or false")

    def number(self, name: str) -> float | None:
        """Return a number; None without."""
        value = self._members.pop(name, None)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        raise untranslatable(self.at(name), "must be a number.")

    def whole(self, name: str) -> int | None:
        """Return a whole number, however it is written; None without."""
        value = self.number(name)
        if value is not None and value != int(value):
            raise untranslatable(self.at(name), "must be a whole number.")
        return None if value is None else int(value)

    def items(self, name: str) -> list[Any]:
        """Return a list; an empty one without."""
        value: list[Any] | None = self._of(name, list, "a list")
        return value or []

    def mapping(self, name: str) -> dict[str, Any] | None:
        """Return an object that passes as it is, such as a JSON schema; None without."""
        return self._of(name, dict, "an object")

    def child(self, name: str) -> "Fields | None":
        """Return an object to be taken apart; None without."""
        value = self._members.pop(name, None)
        return None if value is None else Fields(value, self.at(name), self._left_out)

    def children(self, name: str) -> "Iterator[Fields]":
        """Yield the objects of a list."""
        for number, item in enumerate(self.items(name)):
            yield Fields(item, f"{self.at(name)}[{number}]", self._left_out)

    def blocks(self, name: str) -> "str | list[Fields]":
        """Return content, which is a text or a list of objects."""
        value = self._members.get(name)
        if isinstance(value, list):
            return list(self.children(name))
        text = self.text(name)
        if text is None:
            raise untranslatable(self.at(name), "is required.")
        return text

    def has(self, name: str) -> bool:
        """Whether a member is still to be taken."""
        return name in self._members

    def choice(self, name: str, words: "dict[str, str]", other: str) -> str | None:
        """Return the other dialect's word for a text that is one of few; None without.

        Args:
            name: the member's.
            words: from this dialect's words to the other's.
            other: what the other dialect is called.
        """
        word = self.text(name)
        if word is None:
            return None
        if word not in words:
            allowed = ", ".join(sorted(words))
            raise untranslatable(self.at(name), f"must be one of {allowed} for {other}.")
        return words[word]

    def leave_out(self, *names: str) -> None:
        """Leave out hints that change no answer; their names are told to the client."""
        for name in names:
            if self._members.pop(name, None) is not None:
                self.told(name)

    def told(self, name: str) -> None:
        """Tell the client that a hint of this name is left out."""
        self._left_out.add(name)

    def neutral(self, name: str, *values: object) -> None:
        """Accept a member that asks for what happens anyway; refuse any other value."""
        value = self._members.get(name)
        if value in values or value in ([], {}):
            self._members.pop(name, None)

    def end(self, other: str) -> None:
        """Refuse every member that was not spoken of.

        Args:
            other: what the other dialect is called.
        """
        for name in self._members:
            raise untranslatable(self.at(name), f"has no counterpart in {other}.")

    def _of(self, name: str, kind: type[_Kind], what: str) -> _Kind | None:
        value = self._members.pop(name, None)
        if value is None or isinstance(value, kind):
            return value
        raise untranslatable(self.at(name), f"must be {what}.")
