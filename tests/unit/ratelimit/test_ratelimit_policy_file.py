"""The policy file: what it can say, what is refused with its place, and which rule applies."""

from pathlib import Path

import pytest

from services.common.operator_file import MAX_BYTES
from services.ratelimit.descriptor import DescriptorRule, Entry
from services.ratelimit.policy import Policy
from services.ratelimit.policy_file import PolicyError, parse
from services.ratelimit.rule import Match, Rule, Scope, Unit

DEFAULTS = [Rule("requests", Unit.REQUESTS, 5, 10)]


def rules(text: str, *defaults: Rule) -> list[Rule]:
    return list(parse(text.encode(), defaults).rules)


def names(policy: Policy, **call: object) -> dict[str, tuple[int, float]]:
    """Return limit and rate of each rule that applies to a call."""
    asked = {"tenant": "acme", "issuer": "apikey", "subject": "k1", **call}
    groups = policy.groups(**asked)  # type: ignore[arg-type]  # from a table
    return {
        rule.name: (rule.burst, rule.rate_per_s) for group in groups for rule in group.rules.rules
    }


def test_every_kind_of_limit_can_be_said() -> None:
    found = rules(
        """
        version: 1
        rules:
          - {name: rate, limit: 120, per: minute, burst: 30}
          - {name: tokens, unit: tokens, limit: 1000, per: minute, scope: tenant}
          - {name: day, unit: tokens, limit: 5000, per: day}
          - {name: rolling, unit: tokens, limit: 86400, per: day, window: rolling}
          - {name: money, unit: cost, limit: 12.5, per: month, scope: global}
          - {name: micros, unit: cost_micros, limit: 7, per: day}
          - {name: at_once, unit: concurrency, limit: 4, shadow: true}
          - {name: free, unlimited: true, match: {subjects: [boss]}}
        """
    )
    assert found == [
        Rule("rate", Unit.REQUESTS, 2, 30),
        Rule("tokens", Unit.TOKENS, 1000 / 60, 1000, scope=Scope.TENANT),
        Rule("day", Unit.TOKENS, 0, 5000, "day"),
        Rule("rolling", Unit.TOKENS, 1, 86400),
        Rule("money", Unit.COST, 0, 12_500_000, "month", Scope.GLOBAL),
        Rule("micros", Unit.COST, 0, 7, "day"),
        Rule("at_once", Unit.CONCURRENCY, 0, 4, shadow=True),
        Rule("free", Unit.REQUESTS, 1, 1, match=Match(subjects=("boss",)), unlimited=True),
    ]


def test_rules_for_envoy_can_be_said() -> None:
    policy = parse(
        b"""
        version: 1
        envoy:
          - name: login
            domain: edge
            entries: [{key: path, value: /login}, {key: remote_address}]
            limit: 60
            per: minute
            burst: 5
        """
    )
    entries = (Entry("path", "/login"), Entry("remote_address"))
    rule = Rule("login", Unit.REQUESTS, 1, 5)
    assert policy.descriptors == (DescriptorRule("edge", entries, rule, "minute"),)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "Expected `object`, got `null`"),
        ("rules: []", "missing required field `version`"),
        ("version: 2", "2"),
        ("version: 1\nrule: []", "unknown field `rule`"),
        ("version: 1\nrules: [{name: a, limit: 1}]", "`rules[0].per` is missing"),
        ("version: 1\nrules: [{name: a, per: day}]", "`rules[0].limit` is missing"),
        ("version: 1\nrules: [{name: a, limit: 0, per: day}]", "`rules[0].limit` must be whole"),
        ("version: 1\nrules: [{name: a, limit: 1.5, per: day}]", "`rules[0].limit` must be whole"),
        ("version: 1\nrules: [{name: a, limit: .nan, per: day}]", "`rules[0].limit` must be"),
        ("version: 1\nrules: [{name: a, limit: many, per: day}]", "must be a number"),
        (
            "version: 1\nrules: [{name: a, unit: cost, limit: 0.0000001, per: day}]",
            "at most 6 decimals",
        ),
        ("version: 1\nrules: [{name: A, limit: 1, per: day}]", "`rules[0].name` must be"),
        ("version: 1\nrules: [{name: a, limit: 1, per: week}]", "rules[0].per"),
        ("version: 1\nrules: [{name: a, limit: 1, per: day, burst: 2}]", "does not go with"),
        ("version: 1\nrules: [{name: a, limit: 1, per: second, burst: 0}]", "must be from 1"),
        (
            "version: 1\nrules: [{name: a, limit: 1, per: second, window: calendar}]",
            "a day or a month",
        ),
        (
            "version: 1\nrules: [{name: a, unit: concurrency, limit: 1, per: day}]",
            "does not go with unit: concurrency",
        ),
        ("version: 1\nrules: [{name: a, unlimited: true, limit: 1}]", "unlimited"),
        ("version: 1\nrules: [{name: a, limit: 1, per: day, match: {user: [x]}}]", "`user`"),
        (
            "version: 1\nrules: [{name: a, unlimited: on}, {name: a, unlimited: on, scope: role}]",
            "all rules named 'a' must have one scope and one unit",
        ),
        ("version: 1\nversion: 1", "'version' stands twice"),
        ("version: 1\nrules: [{name: a, limit: 1, limit: 2, per: day}]", "'limit' stands twice"),
        ("version: 1\nrules: [", "expected the node content"),
        ("version: 1\nrules: [!!python/name:os.system {}]", "could not determine a constructor"),
        ("version: 1\nenvoy: [{name: a, domain: d, entries: []}]", "`envoy[0].entries`"),
        ("version: 1\nenvoy: [{name: a, domain: d, entries: [{key: k}]}]", "needs `limit`"),
        (
            "version: 1\nenvoy: [{name: a, domain: d, entries: [{key: k}], limit: 0, per: day}]",
            "`envoy[0].limit`",
        ),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(text: str, complaint: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse(text.encode(), DEFAULTS)
    assert complaint in str(caught.value)


def test_files_and_policies_have_a_size() -> None:
    with pytest.raises(PolicyError, match="larger than"):
        parse(b"#" * (MAX_BYTES + 1))
    many = "\n".join(f"  - {{name: r{n}, limit: 1, per: day}}" for n in range(33))
    with pytest.raises(PolicyError, match="at most 32 names in the scope principal"):
        parse(f"version: 1\nrules:\n{many}".encode())
    entry = "domain: d, entries: [{key: k}], limit: 1, per: day"
    many = "\n".join(f"  - {{name: r{n}, {entry}}}" for n in range(201))
    with pytest.raises(PolicyError, match="at most 200"):
        parse(f"version: 1\nenvoy:\n{many}".encode())


@pytest.mark.parametrize(
    ("pattern", "model", "fits"),
    [
        ("tuned[eu]", "tuned[eu]", True),
        ("tuned[eu]", "tunede", False),
        ("a?c", "a?c", True),
        ("a?c", "abc", False),
        ("[*]-x", "[anything]-x", True),
        ("*", "", True),
    ],
)
def test_nothing_but_the_star_is_special_in_a_pattern(pattern: str, model: str, fits: bool) -> None:
    text = f'version: 1\nrules: [{{name: a, limit: 1, per: day, match: {{models: ["{pattern}"]}}}}]'
    (rule,) = parse(text.encode()).rules
    assert rule.matches("t", "s", (), model) is fits


def test_of_rules_with_one_name_the_first_that_matches_applies_and_the_environments_is_last() -> (
    None
):
    policy = parse(
        b"""
        version: 1
        rules:
          - {name: requests, unlimited: true, match: {tenants: [own], roles: [admin]}}
          - {name: requests, limit: 100, per: second, match: {roles: [batch, "bulk-*"]}}
          - {name: requests, limit: 1, per: second, match: {models: ["gpt-*"]}}
        """,
        DEFAULTS,
    )
    assert names(policy) == {"requests": (10, 5)}
    assert names(policy, roles=("batch",)) == {"requests": (100, 100)}
    assert names(policy, roles=("bulk-night", "user")) == {"requests": (100, 100)}
    assert names(policy, model="gpt-5") == {"requests": (1, 1)}
    assert names(policy, model="gpt-5", roles=("batch",)) == {"requests": (100, 100)}
    assert names(policy, roles=("admin",)) == {"requests": (10, 5)}
    assert names(policy, tenant="own", roles=("admin",)) == {}
    # Whatever the model: what holds without one, and what only models have.
    assert names(policy, model=None) == {"requests": (10, 5)}


def test_shared_ceilings_are_accounts_of_their_own_and_the_callers_is_last() -> None:
    policy = parse(
        b"""
        version: 1
        rules:
          - {name: all, scope: global, limit: 9, per: second}
          - {name: house, scope: tenant, limit: 8, per: second, match: {tenants: [acme]}}
          - {name: team, scope: role, limit: 7, per: second, match: {roles: [dev, ops]}}
          - {name: big, scope: model, limit: 6, per: second, match: {models: [big]}}
          - {name: big_each, limit: 5, per: second, match: {models: [big]}}
        """,
        DEFAULTS,
    )
    groups = policy.groups("acme", "apikey", "k1", ("ops", "dev", "x"), "big")
    assert [[rule.name for rule in group.rules.rules] for group in groups] == [
        ["all"],
        ["house"],
        ["team"],
        ["team"],
        ["big"],
        ["big_each", "requests"],
    ]
    assert [group.key for group in groups] == ["", "acme", "dev", "ops", "big", ""]
    assert len({group.account for group in groups}) == 6
    other = policy.groups("other", "apikey", "k1", (), "small")
    assert [[rule.name for rule in group.rules.rules] for group in other] == [["all"], ["requests"]]
    assert {group.account for group in groups} & {group.account for group in other} == {
        groups[0].account
    }
    assert policy.groups("acme", "apikey", "k1", ("ops", "dev", "x"), "big") is groups


def test_the_version_names_the_content() -> None:
    one = parse(b"version: 1\nrules: [{name: a, limit: 1, per: day}]", DEFAULTS)
    same = parse(b"# a remark\nversion: 1\nrules:\n- {limit: 1, name: a, per: day}", DEFAULTS)
    other = parse(b"version: 1\nrules: [{name: a, limit: 2, per: day}]", DEFAULTS)
    assert one.version == same.version
    assert len({one.version, other.version, Policy.of(DEFAULTS).version}) == 3


def test_the_example_is_good() -> None:
    example = Path(__file__).parents[3] / "deploy" / "ratelimit" / "policy.yaml"
    policy = parse(example.read_bytes(), DEFAULTS)
    assert names(policy, tenant="platform", roles=("admin",))["concurrency"] == (20, 0)
    assert "requests" not in names(policy, tenant="platform", roles=("admin",))
    assert names(policy, roles=("intern",))["interns"] == (100_000, 100_000 / 3600)


def test_a_file_that_nests_without_end_is_refused() -> None:
    with pytest.raises(PolicyError):
        parse(b"rules: " + b"[" * 100_000)
