"""Trust policies, as C2SP tlog-policy defines them: which logs, which witnesses, which quorum.

The file is octets: names are compared as such, whatever alphabet they are in. Surrogates stand for
octets that are not UTF-8.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.audit.note import NoteError, VerifierKey, parse_verifier_key
from services.audit.witnesses.cosignature import CosignerKey, parse_cosigner_key

NONE = "none"
MAX_POLICY_SIZE = 1024 * 1024

_FORBIDDEN = re.compile(rb"[^\t\n\x20-\x7e\x80-\xff]")
_THRESHOLD = re.compile(r"0*[1-9]\d{0,8}", re.ASCII)
_MIN_GROUP = 3

LogKey = VerifierKey | CosignerKey
Key = TypeVar("Key", VerifierKey, CosignerKey)


class PolicyError(ValueError):
    """A policy that is not spelt as its specification says; the message names the line."""


@dataclass(frozen=True)
class PolicyLog:
    """A log that the policy knows."""

    key: LogKey
    url: str = ""


@dataclass(frozen=True)
class PolicyWitness:
    """A witness that the policy knows. Its name means something within the policy alone."""

    name: str
    key: CosignerKey
    url: str = ""


@dataclass(frozen=True)
class _Group:
    threshold: int
    members: tuple[str, ...]


@dataclass
class Policy:
    """A policy as its file says it."""

    logs: list[PolicyLog] = field(default_factory=list)
    witnesses: dict[str, PolicyWitness] = field(default_factory=dict)
    groups: dict[str, _Group] = field(default_factory=dict)
    quorum: str = ""

    def met(self, witnesses: Collection[str]) -> bool:
        """Say whether the witnesses of these names are a quorum."""
        return self.quorum == NONE or self._witnessed(self.quorum, frozenset(witnesses))

    def _witnessed(self, name: str, present: frozenset[str]) -> bool:
        # Each name is a member of at most one group, so that nothing is looked at twice.
        pending: list[str] = [name]
        order: list[str] = []
        while pending:
            current = pending.pop()
            order.append(current)
            if current in self.groups:
                pending.extend(self.groups[current].members)
        state: dict[str, bool] = {}
        for current in reversed(order):
            group = self.groups.get(current)
            state[current] = (
                current in present
                if group is None
                else sum(state[member] for member in group.members) >= group.threshold
            )
        return state[name]


def parse_policy(data: bytes) -> Policy:
    """Return the policy of a file.

    Raises:
        PolicyError: it is not a policy.
    """
    if len(data) > MAX_POLICY_SIZE:
        msg = f"a policy of {len(data)} bytes is too long"
        raise PolicyError(msg)
    found = _FORBIDDEN.search(data)
    if found is not None:
        number = data.count(b"\n", 0, found.start()) + 1
        msg = f"line {number}: the control character 0x{found[0][0]:02x} is not allowed"
        raise PolicyError(msg)
    parser = _Parser()
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        words = [word for word in re.split("[ \t]+", line) if word]
        if not words or words[0].startswith("#"):
            continue
        try:
            parser.take(words)
        except (PolicyError, NoteError, UnicodeEncodeError) as error:
            problem = (
                "a key name is not UTF-8" if isinstance(error, UnicodeEncodeError) else str(error)
            )
            msg = f"line {number}: {problem}"
            raise PolicyError(msg) from None
    if not parser.policy.quorum:
        msg = "there is no quorum line"
        raise PolicyError(msg)
    return parser.policy


def parse_log_key(line: str) -> LogKey:
    """Return the key of a log: one that signs notes, or one that signs as a cosigner.

    Raises:
        NoteError: it is neither.
    """
    try:
        return parse_verifier_key(line)
    except NoteError as error:
        try:
            return parse_cosigner_key(line)
        except NoteError:
            raise error from None


class _Parser:
    """Takes the lines of a policy, one after the other."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.policy = Policy()
        self._members: set[str] = set()
        self._materials: dict[str, set[bytes]] = {"log": set(), "witness": set()}
        self._kinds: Mapping[str, Callable[[list[str]], None]] = {
            "log": self._log,
            "witness": self._witness,
            "group": self._group,
            "quorum": self._quorum,
        }

    def take(self, words: list[str]) -> None:
        kind = self._kinds.get(words[0])
        if kind is None:
            msg = f"{words[0]!r} is none of log, witness, group, quorum"
            raise PolicyError(msg)
        kind(words[1:])

    def _log(self, words: list[str]) -> None:
        if len(words) not in {1, 2}:
            msg = "a log line has the form: log <vkey> [<url>]"
            raise PolicyError(msg)
        key = parse_log_key(words[0])
        self._once("log", key)
        self.policy.logs.append(PolicyLog(key, "".join(words[1:])))

    def _witness(self, words: list[str]) -> None:
        if len(words) not in {2, 3}:
            msg = "a witness line has the form: witness <name> <vkey> [<url>]"
            raise PolicyError(msg)
        self._new(words[0])
        key = parse_cosigner_key(words[1])
        self._once("witness", key)
        self.policy.witnesses[words[0]] = PolicyWitness(words[0], key, "".join(words[2:]))

    def _group(self, words: list[str]) -> None:
        if len(words) < _MIN_GROUP:
            msg = "a group line has the form: group <name> all|any|<k> <name>..."
            raise PolicyError(msg)
        name, threshold, *members = words
        self._new(name)
        for member in members:
            self._defined(member)
            if member in self._members:
                msg = f"{member!r} is a member of a group already"
                raise PolicyError(msg)
            self._members.add(member)
        numbers = {"all": len(members), "any": 1}
        if threshold in numbers:
            least = numbers[threshold]
        elif _THRESHOLD.fullmatch(threshold) and int(threshold) <= len(members):
            least = int(threshold)
        else:
            msg = f"the threshold {threshold!r} is not from 1 to {len(members)}, all or any"
            raise PolicyError(msg)
        self.policy.groups[name] = _Group(least, tuple(members))

    def _quorum(self, words: list[str]) -> None:
        if len(words) != 1:
            msg = "a quorum line has the form: quorum <name>"
            raise PolicyError(msg)
        if self.policy.quorum:
            msg = "there is a quorum line already"
            raise PolicyError(msg)
        if words[0] != NONE:
            self._defined(words[0])
        self.policy.quorum = words[0]

    def _new(self, name: str) -> None:
        if name == NONE or name in self.policy.witnesses or name in self.policy.groups:
            msg = f"the name {name!r} is taken"
            raise PolicyError(msg)

    def _defined(self, name: str) -> None:
        if name not in self.policy.witnesses and name not in self.policy.groups:
            msg = f"{name!r} is not defined on a line before"
            raise PolicyError(msg)

    def _once(self, kind: str, key: LogKey) -> None:
        """Refuse a key that stands here already under another name or id."""
        material = _material(key)
        if material in self._materials[kind]:
            msg = f"the {kind} key of {key.name} stands here twice"
            raise PolicyError(msg)
        self._materials[kind].add(material)


def _material(key: LogKey) -> bytes:
    if isinstance(key, CosignerKey):
        return key.encoded[1:]
    if isinstance(key.public_key, Ed25519PublicKey):
        return key.public_key.public_bytes_raw()
    return bytes.fromhex(key.fingerprint)
