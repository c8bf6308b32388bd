"""The route file: what it declares, and what it refuses."""

from pathlib import Path

import pytest

from services.common.operator_file import MAX_BYTES
from services.model.declaration import Declaration, Key, ModelDeclaration, ProviderDeclaration
from services.model.gate import GatePolicy
from services.model.route_file import RouteFileError, parse
from services.model.upstream import Limits
from services.model.usage import Prices

LIMITS = Limits(1, 2, 3, 4)
GATE = GatePolicy(7, 8, 9)
OWN = ProviderDeclaration("openai", "openai", "https://own.test/v1", Key("sk-own"))

WHOLE = """
version: 1
providers:
  eu:
    kind: azure
    endpoint: https://eu.openai.azure.com/
    key_env: AZURE_KEY
    calls_at_once: 50
    queue: 5
    queue_wait_ms: 250
  claude: {kind: anthropic, key_file: /run/claude}
  local:
    kind: openai
    endpoint: "http://127.0.0.1:8000/v1"
    stream_usage: false
    output_limit: max_completion_tokens
models:
  gpt-4o:
    context_tokens: 128000
    max_output_tokens: 16384
    roles: [research, admin, research]
    capabilities: [tools, images]
    retries: 1
    retry_share: 0.1
    timeouts: {first_byte_ms: 20000, total_ms: 90000}
    price: {input: 2.5, output: "10", cached_input: 1.25, version: "2026-11"}
    targets:
      - {provider: openai, weight: 3}
      - {provider: eu, model: deployment-1, weight: 1, timeouts: {idle_ms: 500}}
      - provider: claude
        model: claude-sonnet
        price: {input: 3, output: 15, cache_write: 3.75}
  local/*:
    targets: [{provider: local, model: "models/*"}]
"""


def parsed(text: str, *own: ProviderDeclaration) -> Declaration:
    models = (ModelDeclaration("env-model", ()), ModelDeclaration("gpt-4o", ())) if own else ()
    return parse(text.encode(), Declaration(own, models), LIMITS, GATE, {"AZURE_KEY": " k \n"})


def test_a_file_declares_providers_and_models() -> None:
    found = parsed(WHOLE, OWN)

    providers = {one.name: one for one in found.providers}
    assert providers["openai"] is OWN
    assert providers["eu"] == ProviderDeclaration(
        "eu",
        "azure",
        "https://eu.openai.azure.com",
        Key("k"),
        "2024-10-21",
        gate=GatePolicy(50, 5, 0.25),
    )
    assert providers["claude"].endpoint == "https://api.anthropic.com/v1"
    assert providers["claude"].key == Key(path=Path("/run/claude"))
    assert providers["local"].stream_usage is False
    assert providers["local"].limit_field == "max_completion_tokens"
    assert providers["local"].gate == GATE

    env, gpt, local = found.models
    assert (env.name, gpt.name, local.name) == ("env-model", "gpt-4o", "local/*")
    assert (gpt.roles, gpt.capabilities) == (("admin", "research"), ("images", "tools"))
    assert (gpt.context_tokens, gpt.max_output_tokens) == (128000, 16384)
    assert (gpt.retries, gpt.retry_share, gpt.total_s) == (1, 0.1, 90)
    first, second, third = gpt.targets
    dear = Prices(2_500_000, 10_000_000, 1_250_000, name="2026-11")
    assert (first.provider, first.model, first.weight) == ("openai", "gpt-4o", 3)
    assert (first.prices, second.prices) == (dear, dear)
    assert third.prices == Prices(3_000_000, 15_000_000, None, 3_750_000)
    assert first.limits == third.limits == Limits(1, 20, 3, 4)
    assert second.limits == Limits(1, 20, 0.5, 4)
    assert local.targets[0].model == "models/*"
    assert local.targets[0].limits == LIMITS


def test_the_version_names_the_content_and_leaves_keys_out() -> None:
    assert parsed(WHOLE, OWN).version == parsed(WHOLE, OWN).version
    heavier = WHOLE.replace("weight: 3", "weight: 4")
    assert parsed(WHOLE, OWN).version != parsed(heavier, OWN).version
    assert "sk-own" not in repr(parsed(WHOLE, OWN))
    assert parsed(WHOLE, OWN).version == parsed(WHOLE, OTHER_KEY).version


def test_the_documented_file_is_one() -> None:
    page = Path(__file__).parents[3] / "docs" / "operations" / "models.md"
    text = page.read_text().partition("```yaml\n")[2].partition("```")[0]

    found = parsed(text)

    assert [model.name for model in found.models] == ["gpt-4o", "local/*"]
    assert [one.name for one in found.providers] == ["openai-main", "azure-eu", "claude", "local"]


OTHER_KEY = ProviderDeclaration("openai", "openai", "https://own.test/v1", Key("sk-new"))
MODELS = "models: {m: {targets: [{provider: p}]}}"
P = "providers: {p: {kind: openai, endpoint: 'http://x/v1'}}"


def one(provider: str = "kind: openai, endpoint: 'http://x/v1'", model: str = "", target: str = "",
        name: str = "m") -> str:  # fmt: skip
    return (
        f"version: 1\nproviders: {{p: {{{provider}}}}}\n"
        f"models: {{'{name}': {{{model} targets: [{{provider: p{target}}}]}}}}"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "Expected `object`"),
        ("version: 2", "version"),
        ("version: 1", "`models` is missing"),
        ("a: [", "expected"),
        ("version: 1\nversion: 1", "stands twice"),
        (f"version: 1\n{MODELS}\nother: 1", "unknown field `other`"),
        (f"version: 1\n{MODELS}", "`models.m.targets[0].provider` must be one of"),
        (one("kind: other"), "providers"),
        (one("kind: openai"), "needs key_file or key_env"),
        (one("kind: anthropic"), "needs key_file or key_env"),
        (one("kind: openai, key: sk-inline"), "unknown field `key`"),
        (one("kind: azure, key_file: /k"), "`providers.p.endpoint` is missing"),
        (one("kind: openai, endpoint: 'ftp://x'"), "must be an http or https URL"),
        (one("kind: openai, endpoint: 'http://u:p@x'"), "must hold no credentials"),
        (one("kind: openai, endpoint: 'http://x', api_version: '1'"), "belongs to kind: azure"),
        (one("kind: azure, endpoint: 'http://x', api_version: 'a&b'"), "must be a version"),
        (one("kind: openai, key_file: /k, key_env: K"), "not both"),
        (one("kind: openai, key_env: NOT_SET"), "names NOT_SET, which is not set"),
        (one("kind: openai, endpoint: 'http://x', calls_at_once: 0"), "from 1 to 100000"),
        (one("kind: openai, endpoint: 'http://x', queue: -1"), "from 0 to 100000"),
        (one("kind: openai, endpoint: 'http://x', queue_wait_ms: 0"), "from 1 to 600000"),
        (one(name="two words"), "printable characters"),
        (one(name="a*b*"), "at most one *"),
        (one(model="retries: 11,"), "`models.m.retries` must be from 0 to 10"),
        (one(model="retry_share: 2,"), "from 0 to 1"),
        (one(model="roles: ['a b'],"), "no name of a role"),
        (one(model="capabilities: [flying],"), "Invalid enum value"),
        (one(model="context_tokens: -1,"), "context_tokens"),
        (one(model="timeouts: {total_ms: 0},"), "`models.m.timeouts.total_ms` must be from 1"),
        (one(model="timeouts: {idle_ms: 0},"), "`models.m.timeouts.idle_ms` must be from 1"),
        (one(model="price: {input: -1},"), "amount of money"),
        (one(model="price: {input: 0.0000001},"), "at most 6 decimals"),
        (one(model="price: {input: x},"), "amount of money"),
        (one(model="price: {input: .inf},"), "amount of money"),
        (one(model="price: {version: 'a b'},"), "version"),
        (one(target=", weight: -1"), "`models.m.targets[0].weight` must be from 0 to 1000"),
        (one(target=", model: 'a*'"), "only where the public name has one"),
        (one(target=", timeouts: {total_ms: 1}"), "belongs to the model"),
        (one(target=", timeouts: {connect_ms: 0}"), "`models.m.targets[0].timeouts.connect_ms`"),
        (f"version: 1\n{P}\nmodels: {{m: {{targets: []}}}}", "must be 1 to 16"),
        (f"version: 1\nproviders: {{P: {{kind: stub}}}}\n{MODELS}", "a letter first"),
        ("!!python/object:os.system x", "could not determine a constructor"),
        ("x" * (MAX_BYTES + 1), "larger than"),
    ],
)
def test_a_bad_file_is_refused_with_the_place_and_what_is_allowed(text: str, problem: str) -> None:
    with pytest.raises(RouteFileError) as caught:
        parsed(text)
    assert problem in str(caught.value)


def test_too_many_models_are_refused() -> None:
    models = "".join(f"  m{number}: {{targets: [{{provider: p}}]}}\n" for number in range(1001))

    with pytest.raises(RouteFileError, match="at most 1000"):
        parsed(f"version: 1\n{P}\nmodels:\n{models}")
