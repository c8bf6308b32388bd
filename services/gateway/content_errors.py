"""Why a prompt does not leave."""

from typing import Final

from services.common.errors import FieldViolation, InvalidArgument

DEEPEST: Final = 3
"""So many documents may stand in one another."""


class ContentRefused(InvalidArgument):
    """A prompt holds what policy keeps from leaving.

    Args:
        what: the type, or the name of the pattern; never the value.
        field: where it stands.
    """

    def __init__(self, what: str, field: str) -> None:
        """See the class."""
        self.what = what
        sentence = f"holds {what}, which is not allowed to leave here; take it out"
        super().__init__(
            f"`{field}` {sentence}.",
            reason="CONTENT_BLOCKED",
            violations=(FieldViolation(field, sentence),),
        )


class Unsearchable(InvalidArgument):
    """A document is declared as text and cannot be read as such.

    Args:
        field: where it stands.
        nested: whether it stands within too many others; else its base64 is none.
    """

    def __init__(self, field: str, *, nested: bool) -> None:
        """See the class."""
        self.nested = nested
        sentence = "holds a document that cannot be searched for personal data: " + (
            f"it stands within more than {DEEPEST} others"
            if nested
            else "it is declared as text, and its base64 cannot be decoded"
        )
        super().__init__(
            f"`{field}` {sentence}.",
            reason="CONTENT_UNSEARCHABLE",
            violations=(FieldViolation(field, sentence),),
        )
