"""Roles: what each allows, as built in or as a file says; what none allows is denied."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from services.common import operator_file
from services.common.operator_file import OperatorFileError

MODEL_SURFACES: Final = (
    "chat.completions",
    "responses",
    "messages",
    "messages.count_tokens",
    "embeddings",
    "generate",
)
SURFACES: Final = (*MODEL_SURFACES, "models")
EVERY: Final = "*"
MOST_ROLES: Final = 200
MOST_PATTERNS: Final = 200
BUILT_IN_VERSION: Final = "built-in"
_LONGEST_NAME: Final = 256
_PLAIN: Final = re.compile(r"[!-~]+")


class Reach(IntEnum):
    """Whose of something a caller may read; each includes those before it."""

    NONE = 0
    OWN = 1
    TENANT = 2
    ALL = 3


class Administration(IntEnum):
    """What a caller may do of administration; each includes those before it."""

    NONE = 0
    READ = 1
    WRITE = 2


class RolesError(OperatorFileError):
    """The file does not declare roles; the message says where and what is allowed."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a role allows.

    Args:
        surfaces: the ways in, of `SURFACES`.
        allow: patterns of the models that it is for.
        deny: patterns of the models that nobody with this role may use, whatever else they have.
        records: whose audit records and receipts.
        keys: whose keys of commitments.
        texts: whose captured texts.
        administration: how far.
    """

    surfaces: frozenset[str] = frozenset()
    allow: tuple[str, ...] = (EVERY,)
    deny: tuple[str, ...] = ()
    records: Reach = Reach.NONE
    keys: Reach = Reach.NONE
    texts: Reach = Reach.NONE
    administration: Administration = Administration.NONE


@dataclass(frozen=True, slots=True)
class RolePolicy:
    """Every role, and a name for all of it: the same file has the same one."""

    roles: Mapping[str, Role]
    version: str


_USER = Role(frozenset(SURFACES), records=Reach.OWN, keys=Reach.OWN, texts=Reach.OWN)
BUILT_IN: Final[Mapping[str, Role]] = MappingProxyType(
    {
        "user": _USER,
        "service": _USER,
        "auditor": Role(frozenset({"models"}), records=Reach.ALL, keys=Reach.ALL, texts=Reach.ALL),
        "admin": Role(
            frozenset(SURFACES),
            records=Reach.ALL,
            keys=Reach.ALL,
            texts=Reach.ALL,
            administration=Administration.WRITE,
        ),
    }
)
BUILT_IN_POLICY: Final = RolePolicy(BUILT_IN, BUILT_IN_VERSION)

_Whose = Literal["none", "own", "tenant", "all"]


class _ModelsText(msgspec.Struct, forbid_unknown_fields=True):
    allow: list[str] = []
    deny: list[str] = []


class _AuditText(msgspec.Struct, forbid_unknown_fields=True):
    records: _Whose = "none"
    keys: _Whose = "none"
    texts: _Whose = "none"


class _RoleText(msgspec.Struct, forbid_unknown_fields=True):
    description: str = ""
    surfaces: list[str] = []
    models: _ModelsText = msgspec.field(default_factory=_ModelsText)
    audit: _AuditText = msgspec.field(default_factory=_AuditText)
    administration: Literal["none", "read", "write"] = "none"


class _FileText(msgspec.Struct, forbid_unknown_fields=True):
    version: Literal[1]
    built_in_roles: bool = True
    roles: dict[str, _RoleText] = {}


def parse(text: bytes) -> RolePolicy:
    """Return the roles of a file, beside the built-in ones unless it does without them.

    Raises:
        RolesError: it is not such a file.
    """
    try:
        file = operator_file.parse(text, _FileText)
    except OperatorFileError as error:
        raise RolesError(str(error)) from None
    own = {name: _role(name, one) for name, one in file.roles.items()}
    roles = {**(BUILT_IN if file.built_in_roles else {}), **own}
    if not 0 < len(roles) <= MOST_ROLES:
        msg = f"`roles` must be from 1 to {MOST_ROLES}"
        raise RolesError(msg)
    return RolePolicy(MappingProxyType(roles), sha256(text).hexdigest()[:12])


def describe(policy: RolePolicy) -> dict[str, object]:
    """Return a policy as administrators read it."""
    return {
        "version": policy.version,
        "roles": {
            name: {
                "surfaces": sorted(role.surfaces),
                "models": {"allow": list(role.allow), "deny": list(role.deny)},
                "audit": reach_json(role.records, role.keys, role.texts),
                "administration": role.administration.name.lower(),
            }
            for name, role in sorted(policy.roles.items())
        },
    }


def reach_json(records: Reach, keys: Reach, texts: Reach) -> dict[str, str]:
    """Return whose records, keys and texts may be read, as the file has it."""
    return {
        "records": records.name.lower(),
        "keys": keys.name.lower(),
        "texts": texts.name.lower(),
    }


def matches(patterns: Iterable[str], name: str) -> bool:
    """Return whether a model's name is like one of the patterns, whatever the case of letters.

    A `*` stands for any text, also for none. It takes linear time.
    """
    folded = name.casefold()
    return any(_matches(pattern.casefold(), folded) for pattern in patterns)


def is_plain(name: str) -> bool:
    """Return whether a name is spelled so that a pattern can be relied on to know it."""
    return _PLAIN.fullmatch(name) is not None


def _matches(pattern: str, name: str) -> bool:
    first, *others = pattern.split("*")
    if not others:
        return pattern == name
    *inner, last = others
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    place, end = len(first), len(name) - len(last)
    for piece in inner:
        found = name.find(piece, place, end)
        if found < 0:
            return False
        place = found + len(piece)
    return True


def _role(name: str, text: _RoleText) -> Role:
    path = f"`roles.{name[:64]}`"
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable() or name.strip() != name:
        msg = f"{path}: a role's name is 1 to {_LONGEST_NAME} printable characters"
        raise RolesError(msg)
    surfaces = frozenset(SURFACES if EVERY in text.surfaces else text.surfaces)
    if unknown := surfaces.difference(SURFACES):
        msg = (
            f"{path}: no surface is called {min(unknown)[:64]!r}; there are {', '.join(SURFACES)} "
            f"and {EVERY!r} for all of them"
        )
        raise RolesError(msg)
    for pattern in (*text.models.allow, *text.models.deny):
        if not is_plain(pattern):
            msg = f"{path}: {pattern[:64]!r} is no pattern of models: printable ASCII, no spaces"
            raise RolesError(msg)
    if len(text.models.allow) + len(text.models.deny) > MOST_PATTERNS:
        msg = f"{path}: at most {MOST_PATTERNS} patterns of models"
        raise RolesError(msg)
    if surfaces.intersection(MODEL_SURFACES) and not text.models.allow:
        msg = f"{path}: `models.allow` is missing: which models is it for ({EVERY!r}: all of them)?"
        raise RolesError(msg)
    records = Reach[text.audit.records.upper()]
    keys, texts = Reach[text.audit.keys.upper()], Reach[text.audit.texts.upper()]
    if max(keys, texts) > records:
        msg = f"{path}: `audit.keys` and `audit.texts` reach no further than `audit.records`"
        raise RolesError(msg)
    return Role(
        surfaces,
        tuple(text.models.allow),
        tuple(text.models.deny),
        records,
        keys,
        texts,
        Administration[text.administration.upper()],
    )
