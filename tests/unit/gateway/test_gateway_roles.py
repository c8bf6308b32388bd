"""Roles: deny by default, one decision for each set of them, and a file that is checked whole."""

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import PermissionDenied
from services.common.file_watch import FileWatch
from services.common.operator_file import OperatorFileError
from services.gateway.authorization import Authorizer, Scope, WayIn
from services.gateway.principal import Principal
from services.gateway.roles import (
    BUILT_IN_POLICY,
    MODEL_SURFACES,
    SURFACES,
    Reach,
    RolePolicy,
    RolesError,
    describe,
    matches,
    parse,
)

EXAMPLE = Path(__file__).parents[3] / "deploy" / "gateway" / "roles.yaml"
CHAT = WayIn("chat.completions", Scope.GENERATE)


def who(*roles: str) -> Principal:
    return Principal("t", "i", "s", tuple(sorted(roles)))


def policy(text: str) -> RolePolicy:
    return parse(b"version: 1\n" + text.encode())


def authorizer(text: str) -> Authorizer:
    return Authorizer(policy(text))


@pytest.mark.parametrize(
    ("role", "scopes"),
    [
        ("user", "GENERATE MODELS AUDIT_OWN AUDIT_KEYS AUDIT_TEXTS"),
        ("service", "GENERATE MODELS AUDIT_OWN AUDIT_KEYS AUDIT_TEXTS"),
        ("auditor", "MODELS AUDIT_OWN AUDIT_TENANT AUDIT_ALL AUDIT_KEYS AUDIT_TEXTS"),
        ("admin", " ".join(scope.name for scope in Scope)),
        ("root", ""),
        ("", ""),
        ("User", ""),
    ],
)
def test_the_built_in_roles_allow_what_they_say_and_others_nothing(role: str, scopes: str) -> None:
    """Promise: a role that is not declared allows nothing."""
    allowed = Authorizer().of(who(role)).scopes
    assert {scope.name for scope in allowed} == set(scopes.split())


def test_nobody_without_a_role_may_do_anything() -> None:
    permissions = Authorizer().of(who())
    assert not permissions.scopes
    assert not permissions.may_see("m")
    assert permissions.records is permissions.keys is permissions.texts is Reach.NONE


@pytest.mark.parametrize("surface", MODEL_SURFACES)
def test_a_surface_is_allowed_by_name(surface: str) -> None:
    decides = authorizer(
        f"roles: {{one: {{surfaces: [{surface}], models: {{allow: ['*']}}}}, none: {{}}}}"
    )
    for other in MODEL_SURFACES:
        allowed = decides.of(who("one", "none")).allows(WayIn(other, Scope.GENERATE))
        assert allowed is (other == surface)


def test_a_refusal_says_which_roles_would_do() -> None:
    with pytest.raises(PermissionDenied, match=r"`chat.completions`; one of these does: admin, s"):
        Authorizer().require(who("auditor"), CHAT)
    bare = authorizer("built_in_roles: false\nroles: {a: {}}")
    with pytest.raises(PermissionDenied, match="no role here does"):
        bare.require(who("a"), CHAT)


MODELS = """
roles:
  small: {surfaces: [chat.completions, models], models: {allow: ["gpt-*-mini", "stub"]}}
  large: {surfaces: [messages], models: {allow: ["*"], deny: ["*preview*", "openai/o1"]}}
"""


@pytest.mark.parametrize(
    ("roles", "surface", "model", "allowed"),
    [
        ("small", "chat.completions", "gpt-5-mini", True),
        ("small", "chat.completions", "GPT-5-Mini", True),
        ("small", "chat.completions", "gpt--mini", True),
        ("small", "chat.completions", "gpt-mini", False),
        ("small", "chat.completions", "gpt-5", False),
        ("small", "chat.completions", "xgpt-5-mini", False),
        ("small", "chat.completions", "gpt-5-minix", False),
        ("small", "chat.completions", "stub", True),
        ("small", "chat.completions", "stubs", False),
        ("small", "chat.completions", "", False),
        ("small", "messages", "stub", False),
        ("large", "messages", "anything", True),
        ("large", "messages", "a-preview-2", False),
        ("large", "messages", "openai/o1", False),
        ("large", "messages", "OpenAI/O1", False),
        ("large", "messages", "openai/o1 ", False),
        ("large", "messages", "openai/o1\u200b", False),
        ("large", "messages", "openai/\uff4f1", False),
        # Neither role allows the other's models on its own surface.
        ("small large", "chat.completions", "anything", False),
        ("small large", "messages", "anything", True),
        # What one role denies, no other allows.
        ("large user", "chat.completions", "openai/o1", False),
        ("user", "chat.completions", "openai/o1", True),
        ("user", "chat.completions", "o1 ", True),
    ],
)
def test_models_are_allowed_by_pattern_and_denied_for_good(
    roles: str, surface: str, model: str, *, allowed: bool
) -> None:
    permissions = authorizer(MODELS).of(who(*roles.split()))
    assert permissions.may_use(surface, model) is allowed
    assert permissions.may_use(surface, model) is allowed
    assert permissions.may_see(model) or not allowed


def test_roles_add_up() -> None:
    decides = authorizer(
        """
roles:
  a: {audit: {records: tenant, keys: own}}
  b: {audit: {records: own, texts: own}, administration: read}
"""
    )
    both = decides.of(who("a", "b"))
    assert (both.records, both.keys, both.texts) == (Reach.TENANT, Reach.OWN, Reach.OWN)
    assert Scope.ADMIN_READ in both.scopes
    assert Scope.ADMIN not in both.scopes
    assert Scope.AUDIT_ALL not in both.scopes


def test_a_file_may_do_without_the_built_in_roles_or_replace_one() -> None:
    assert set(policy("built_in_roles: false\nroles: {a: {}}").roles) == {"a"}
    assert not authorizer("roles: {admin: {}}").of(who("admin")).scopes
    assert set(policy("roles: {}").roles) == set(BUILT_IN_POLICY.roles)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "object"),
        ("version: 2", "version"),
        ("version: 1\nrole: {}", "unknown field `role`"),
        ("version: 1\nroles: {a: {surface: []}}", "unknown field `surface`"),
        ("version: 1\nroles: {a: {surfaces: [chat]}}", "no surface is called 'chat'"),
        ("version: 1\nroles: {a: {surfaces: [messages]}}", "`models.allow` is missing"),
        ("version: 1\nroles: {a: {surfaces: messages}}", "array"),
        ("version: 1\nroles: {a: {models: {allow: ['a b']}}}", "no pattern"),
        ("version: 1\nroles: {a: {models: {deny: ['']}}}", "no pattern"),
        ("version: 1\nroles: {a: {audit: {records: everything}}}", "records"),
        ("version: 1\nroles: {a: {audit: {records: own, texts: all}}}", "no further"),
        ("version: 1\nroles: {a: {audit: {keys: own}}}", "no further"),
        ("version: 1\nroles: {a: {administration: yes}}", "administration"),
        (f"version: 1\nroles: {{a: {{models: {{deny: {['x'] * 201}}}}}}}", "at most 200 patterns"),
        ("version: 1\nroles: {a: {}, a: {}}", "stands twice"),
        ("version: 1\nroles: {' a': {}}", "role's name"),
        ("version: 1\nroles: {5: {}}", "str"),
        ("version: 1\nbuilt_in_roles: false", "from 1 to 200"),
        ("version: 1\nroles: {a: &x {}, b: [*x", "expected"),
        ("version: 1\nroles: !!python/object:os.system {}", "constructor"),
        ("- 1", "object"),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(RolesError, match=why):
        parse(text.encode())


def test_the_example_is_good_and_shows_every_surface() -> None:
    example = parse(EXAMPLE.read_bytes())
    assert {"chat-only", "embedder", "team-auditor", "operator"} <= set(example.roles)
    for surface in SURFACES:
        assert surface in EXAMPLE.read_text()
    assert example.roles["team-auditor"].records is Reach.TENANT
    assert Authorizer(example).of(who("chat-only")).may_use("messages", "claude-5")
    assert not Authorizer(example).of(who("chat-only")).may_use("messages", "claude-5-preview")


def test_administrators_and_callers_read_what_is_allowed() -> None:
    example = parse(EXAMPLE.read_bytes())
    shown = describe(example)
    assert shown["version"] == example.version
    roles: Any = shown["roles"]
    assert roles["team-auditor"] == {
        "surfaces": [],
        "models": {"allow": [], "deny": []},
        "audit": {"records": "tenant", "keys": "own", "texts": "own"},
        "administration": "none",
    }
    assert Authorizer(example).of(who("operator", "team-auditor")).summary() == {
        "surfaces": ["models"],
        "audit": {"records": "tenant", "keys": "own", "texts": "own"},
        "administration": "read",
    }


def test_another_policy_decides_at_once() -> None:
    decides = Authorizer()
    assert decides.allows(who("user"), Scope.GENERATE)
    decides.adopt(policy("roles: {user: {}}"))
    assert not decides.allows(who("user"), Scope.GENERATE)


async def test_the_file_is_followed_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    path, decides = tmp_path / "roles.yaml", Authorizer()
    told: list[tuple[str, str, str]] = []
    watch = FileWatch(path, parse, decides.adopt, lambda *read: told.append(read))
    with pytest.raises(OperatorFileError, match="cannot read"):
        watch.first()
    path.write_text("version: 1\nroles: {a: {administration: read}}")
    decides.adopt(watch.first())
    first = decides.policy.version
    assert decides.allows(who("a"), Scope.ADMIN_READ)
    await watch.look()
    assert told == [("", "", first)]

    path.write_text("version: 1\nroles: {a: {administration: al")
    await watch.look()
    await watch.look()
    assert decides.policy.version == first
    assert told[1][0] == watch.problem != ""
    assert len(told) == 2

    path.write_text("version: 1\nroles: {a: {}}")
    await watch.look()
    assert not decides.allows(who("a"), Scope.ADMIN_READ)
    assert told[2] == ("", first, decides.policy.version)
    assert watch.problem == ""
    path.unlink()
    await watch.look()
    assert "cannot read" in watch.problem


@given(st.text(alphabet="ab*", max_size=12), st.text(alphabet="ab", max_size=12))
def test_a_pattern_matches_what_its_meaning_says(pattern: str, name: str) -> None:
    def meaning(pattern: str, name: str) -> bool:
        if not pattern:
            return not name
        if pattern[0] == "*":
            return meaning(pattern[1:], name) or (bool(name) and meaning(pattern, name[1:]))
        return bool(name) and name[0] == pattern[0] and meaning(pattern[1:], name[1:])

    assert matches([pattern], name) is meaning(pattern, name)


def test_no_pattern_takes_long() -> None:
    start = time.perf_counter()
    assert not matches(["*a" * 100 + "b"], "a" * 10_000)
    assert time.perf_counter() - start < 0.5


@given(
    st.binary(max_size=60)
    | st.text(alphabet="version: 1\nroles{}[]*&!-'\"#|>,?", max_size=60).map(str.encode)
)
def test_no_file_is_anything_but_roles_or_refused(text: bytes) -> None:
    try:
        policy_ = parse(text)
    except RolesError:
        return
    assert policy_.roles
