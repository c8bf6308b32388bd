"""What is done about each type of personal data, and for whom.

A policy is read from YAML, whole and strictly, or made of a few settings; callers are told apart by
their tenant and roles. It is compiled when it is read, so that a request only looks it up.
"""

import hashlib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final, Literal, NoReturn

import msgspec
import re2

from services.common import operator_file
from services.common.operator_file import OperatorFileError
from services.gateway.attachments import FILES
from services.gateway.effort import MOST_CHECKS
from services.gateway.national_phones import is_region
from services.gateway.personal_data import TYPES, Detector, detector
from services.gateway.principal import Principal
from services.gateway.urls import URLRules

MAX_PATTERNS: Final = 200
_LONGEST_PATTERN: Final = 1000


class Action(StrEnum):
    """What becomes of personal data of a type."""

    REDACT = "redact"
    PSEUDONYMIZE = "pseudonymize"
    BLOCK = "block"
    PASS = "pass"  # noqa: S105 - no password


class PrivacyError(OperatorFileError):
    """The policy is none; the message says where and what is allowed."""


class BlockedPattern(msgspec.Struct, frozen=True):
    """A pattern that no prompt may hold.

    Args:
        name: as the refusal names it.
        matcher: RE2's.
    """

    name: str
    matcher: re2._Regexp


class Rules(msgspec.Struct, frozen=True):
    """What applies to one caller.

    Args:
        actions: by type.
        patterns: what no prompt may hold.
        detector: finds it.
        most_checks: how many candidates of one body may be checked.
        blocked_files: what of files no prompt may hold, since it cannot be searched.
    """

    actions: Mapping[str, Action]
    patterns: tuple[BlockedPattern, ...] = ()
    detector: Detector = detector()
    most_checks: int = MOST_CHECKS
    blocked_files: frozenset[str] = frozenset()

    @property
    def searches(self) -> bool:
        """Whether anything is done about anything."""
        return any(action is not Action.PASS for action in self.actions.values())

    @property
    def restores(self) -> bool:
        """Whether originals return to the caller."""
        return Action.PSEUDONYMIZE in self.actions.values()


class _Match(msgspec.Struct, forbid_unknown_fields=True):
    tenants: list[str] = []
    roles: list[str] = []

    def fits(self, principal: Principal) -> bool:
        return (not self.tenants or principal.tenant in self.tenants) and (
            not self.roles or any(role in self.roles for role in principal.roles)
        )


_ActionText = Literal["redact", "pseudonymize", "block", "pass"]


class _Pattern(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    pattern: str
    ignore_case: bool = False


class _Rule(msgspec.Struct, forbid_unknown_fields=True):
    match: _Match
    default: _ActionText | None = None
    types: dict[str, str] = {}
    files: dict[str, str] = {}


class _URLs(msgspec.Struct, forbid_unknown_fields=True):
    references: URLRules | None = None
    links: URLRules | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    version: Literal[1]
    default: _ActionText | None = None
    types: dict[str, str] = {}
    files: dict[str, str] = {}
    phone_regions: list[str] | None = None
    rules: list[_Rule] = []
    blocked_patterns: list[_Pattern] = []
    urls: _URLs = msgspec.field(default_factory=_URLs)


class Policy:
    """What applies to everybody.

    Args:
        base: what applies to callers whom no rule names.
        rules: the first that fits a caller counts.
        version: tells policies apart, for logs and records.
        references: what may be fetched on behalf of callers; None for the settings'.
        links: which hosts prompts may name; None for all.
    """

    __slots__ = ("_base", "_rules", "links", "references", "version")

    def __init__(
        self,
        base: Rules,
        rules: tuple[tuple[_Match, Rules], ...] = (),
        version: str = "",
        references: URLRules | None = None,
        links: URLRules | None = None,
    ) -> None:
        """See the class."""
        self.references = references
        self.links = links
        self._base = base
        self._rules = rules
        self.version = version

    def rules(self, principal: Principal) -> Rules:
        """Return what applies to a caller."""
        for match, rules in self._rules:
            if match.fits(principal):
                return rules
        return self._base


def actions(
    default: Action = Action.REDACT, types: Mapping[str, str] | None = None
) -> dict[str, Action]:
    """Return an action for each type.

    Raises:
        PrivacyError: a name is not a type's.
    """
    chosen = dict.fromkeys(TYPES, default)
    for name, action in (types or {}).items():
        if name.upper() not in chosen:
            known = ", ".join(kind.lower() for kind in TYPES)
            _fail(f"`types.{name}` is not a type; there are {known}")
        try:
            chosen[name.upper()] = Action(action)
        except ValueError:
            _fail(f"`types.{name}` must be one of {', '.join(Action)}")
    return chosen


def finder(regions: Iterable[str]) -> Detector:
    """Return what finds personal data, and telephone numbers as these regions write them.

    Raises:
        PrivacyError: one is no region.
    """
    codes = tuple(dict.fromkeys(region.upper() for region in regions))
    unknown = next((code for code in codes if not is_region(code)), None)
    if unknown is not None:
        _fail(f"`phone_regions` holds {unknown[:16]!r}, which is no region such as US, GB or DE")
    return detector(codes)


def blocked(files: Mapping[str, str]) -> frozenset[str]:
    """Return which kinds of files are refused.

    Raises:
        PrivacyError: a name is not a kind's, or the action neither `pass` nor `block`.
    """
    for name, action in files.items():
        if name not in FILES:
            _fail(f"`files.{name}` is not a kind of file; there are {', '.join(FILES)}")
        if action not in {Action.PASS, Action.BLOCK}:
            _fail(f"`files.{name}` must be pass or block: it cannot be searched")
    return frozenset(name for name, action in files.items() if action == Action.BLOCK)


REDACT_ALL: Final = Rules(actions())


def parse(  # noqa: PLR0913 - what the settings say
    text: bytes,
    default: Action = Action.REDACT,
    types: Mapping[str, str] | None = None,
    *,
    regions: Iterable[str] = (),
    checks: int = MOST_CHECKS,
    files: Mapping[str, str] | None = None,
    must_redact: bool = False,
) -> Policy:
    """Return the policy of a file, which the settings only complete.

    Args:
        text: YAML.
        default: what applies to types that the file does not name.
        types: the settings' actions by type.
        regions: the settings' regions of telephone numbers.
        checks: how many candidates of one body may be checked.
        files: the settings' actions by kind of file.
        must_redact: whether a policy is refused that redacts nothing.

    Raises:
        PrivacyError: it is not a policy.
    """
    try:
        file = operator_file.parse(text, _File)
    except OperatorFileError as error:
        raise PrivacyError(str(error)) from None
    if len(file.blocked_patterns) > MAX_PATTERNS:
        _fail(f"`blocked_patterns` must hold at most {MAX_PATTERNS}")
    patterns = tuple(
        _compiled(pattern, f"blocked_patterns[{index}]")
        for index, pattern in enumerate(file.blocked_patterns)
    )
    found = finder(regions if file.phone_regions is None else file.phone_regions)
    first = Action(file.default) if file.default else default
    own = {**(types or {}), **file.types}
    held = {**(files or {}), **file.files}

    def made(chosen: Mapping[str, Action], kinds: Mapping[str, str]) -> Rules:
        return Rules(chosen, patterns, found, checks, blocked({**held, **kinds}))

    rules = tuple(
        (
            rule.match,
            made(
                actions(Action(rule.default), rule.types)
                if rule.default
                else actions(first, {**own, **rule.types}),
                rule.files,
            ),
        )
        for rule in file.rules
    )
    version = hashlib.sha256(text).hexdigest()[:12]
    base = made(actions(first, own), {})
    if must_redact:
        _check_production([base, *(chosen for _, chosen in rules)], file.urls.references)
    return Policy(base, rules, version, file.urls.references, file.urls.links)


def _check_production(all_rules: list[Rules], references: URLRules | None) -> None:
    if any(set(rules.actions.values()) == {Action.PASS} for rules in all_rules):
        _fail("every type passes; production redacts personal data")
    if references is not None and references.private:
        _fail("`urls.references.private` is refused in production")


def _compiled(pattern: _Pattern, path: str) -> BlockedPattern:
    if not pattern.name or len(pattern.name) > 64 or not pattern.name.isprintable():  # noqa: PLR2004 - a name
        _fail(f"`{path}.name` must be 1 to 64 characters")
    if not 1 <= len(pattern.pattern) <= _LONGEST_PATTERN:
        _fail(f"`{path}.pattern` must be 1 to {_LONGEST_PATTERN} characters")
    options = re2.Options()
    options.log_errors = False
    options.case_sensitive = not pattern.ignore_case
    try:
        matcher = re2.compile(pattern.pattern, options)
    except re2.error:
        _fail(f"`{path}.pattern` is not a pattern of RE2")
    if matcher.search("") is not None:
        _fail(f"`{path}.pattern` matches the empty text, so it would refuse every prompt")
    return BlockedPattern(pattern.name, matcher)


def _fail(problem: str) -> NoReturn:
    raise PrivacyError(problem)
