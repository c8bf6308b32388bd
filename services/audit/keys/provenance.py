"""Where a key comes from: who made it, on which machine, when, why, and for which environment.

It is written behind the key in its PEM file, where every parser skips it (RFC 7468, section 2), so
that it travels with the key through secrets and variables and cannot be mixed up with another's. It
is a statement, not a proof: the audit log records it as it was stated.
"""

import re
from typing import Self

import msgspec

_PREFIX = "Weaver-Key-"
_LINE = re.compile(rf"^{_PREFIX}([A-Za-z-]+): (.*)$", re.MULTILINE)
_LONGEST = 200


class Provenance(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is stated of a key; empty where nothing is.

    Attributes:
        made_by: who made it: `ann@laptop`.
        made_on: the machine.
        made_time: when, in RFC 3339.
        reason: why.
        environment: what it was made for, if that was said.
    """

    made_by: str = ""
    made_on: str = ""
    made_time: str = ""
    reason: str = ""
    environment: str = ""

    def text(self) -> bytes:
        """Return the lines that stand behind a key."""
        lines = (
            f"{_PREFIX}{_title(name)}: {_clean(getattr(self, name))}\n"
            for name in self.__struct_fields__
            if getattr(self, name)
        )
        return "".join(lines).encode()

    @classmethod
    def of(cls, pem: bytes) -> Self:
        """Return what stands behind a key; lines that nobody knows are skipped."""
        known = {_title(name): name for name in cls.__struct_fields__}
        found = {
            known[title]: _clean(value)
            for title, value in _LINE.findall(pem.decode(errors="replace"))
            if title in known
        }
        return cls(**found)


NOTHING_STATED = Provenance()


def _title(name: str) -> str:
    return name.title().replace("_", "-")


def _clean(value: str) -> str:
    """Return one line of printable text of a bounded length."""
    return "".join(c if c.isprintable() else " " for c in value)[:_LONGEST].strip()
