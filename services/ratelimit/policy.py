"""The policy: which rules apply to a call, and which accounts they are counted in.

A principal's own rules share one account. A ceiling that many callers share is an account of its
own: one for a tenant, for a role in a tenant, for a model, and one for all.
"""

import binascii
import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Final

import msgspec

from services.ratelimit.descriptor import DescriptorRule
from services.ratelimit.own_limits import OwnLimits
from services.ratelimit.rule import Rule, RuleSet, Scope, Unit

CACHED_CALLS: Final = 20_000
CACHED_POLICIES: Final = 1_000
NAME_LETTERS: Final = 22
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


class Group(msgspec.Struct, frozen=True):
    """Rules that are counted in one account, and what that account is of."""

    account: bytes
    rules: RuleSet
    key: str = ""


class Policy(msgspec.Struct, frozen=True, dict=True):
    """The rules of a deployment.

    Attributes:
        rules: of those with one name the first that matches a call applies to it.
        version: names the content, for records and answers.
        descriptors: rules for Envoy's filter; of those that fit the first applies.
        replicas: how many share the rules, each with its own part.
    """

    rules: tuple[Rule, ...]
    version: str
    descriptors: tuple[DescriptorRule, ...] = ()
    replicas: int = 1

    @classmethod
    def of(cls, rules: Iterable[Rule], descriptors: Iterable[DescriptorRule] = ()) -> "Policy":
        """Return the policy of some rules, with the version that its content gives it."""
        chosen, for_envoy = tuple(rules), tuple(descriptors)
        text = msgspec.json.encode((chosen, for_envoy))
        return cls(chosen, hashlib.sha256(text).hexdigest()[:12], for_envoy)

    @classmethod
    def from_limits(cls, *, rps: float, burst: int, tokens_per_minute: int = 0) -> "Policy":
        """Return the policy of a rate alone; 0 tokens per minute means no such rule."""
        rules = [Rule("requests", Unit.REQUESTS, rps, burst)]
        if tokens_per_minute:
            rate = tokens_per_minute / 60
            rules.append(Rule("tokens_per_minute", Unit.TOKENS, rate, tokens_per_minute))
        return cls.of(rules)

    def share(self, replicas: int) -> "Policy":
        """Return one replica's part, for when replicas cannot see each other."""
        own = tuple(rule.share(replicas) for rule in self.rules)
        return Policy(own, self.version, self.descriptors, replicas)

    def with_own(self, limits: OwnLimits) -> "Policy":
        """Return the policy for a principal who brings limits along."""
        found = self._with_own.get(limits)
        if found is None:
            own = limits.rules
            if self.replicas > 1:
                own = tuple(rule.share(self.replicas) for rule in own)
            names = {rule.name for rule in own}
            rest = (
                rule
                for rule in self.rules
                if rule.scope is not Scope.PRINCIPAL or rule.name not in names
            )
            if len(self._with_own) >= CACHED_POLICIES:
                self._with_own.clear()
            found = self._with_own[limits] = Policy((*own, *rest), self.version)
        return found

    @cached_property
    def _with_own(self) -> dict[OwnLimits, "Policy"]:
        return {}

    @cached_property
    def own(self) -> RuleSet | None:
        """The rules of every call where no rule looks at the caller or is shared; else None."""
        names = {rule.name for rule in self.rules}
        plain = all(
            rule.scope is Scope.PRINCIPAL and rule.match.everyone and not rule.unlimited
            for rule in self.rules
        )
        return RuleSet(self.rules) if plain and len(names) == len(self.rules) else None

    @cached_property
    def _groups(self) -> dict[tuple[object, ...], tuple[Group, ...]]:
        return {}

    def groups(
        self,
        tenant: str,
        issuer: str,
        subject: str,
        roles: Sequence[str] = (),
        model: str | None = "",
    ) -> tuple[Group, ...]:
        """Return the accounts of a call with their rules: the shared ones, then the caller's own.

        The caller's own is always there, also without rules: it knows the reservation. No model
        (None) asks for the rules of every model, those of one model's ceiling left out.
        """
        call: tuple[object, ...] = (tenant, issuer, subject)
        if self.own is None:
            call = (tenant, issuer, subject, roles, model)
        found = self._groups.get(call)
        if found is None:
            if len(self._groups) >= CACHED_CALLS:
                self._groups.clear()
            found = self._groups[call] = self._find(tenant, issuer, subject, tuple(roles), model)
        return found

    def _find(
        self, tenant: str, issuer: str, subject: str, roles: tuple[str, ...], model: str | None
    ) -> tuple[Group, ...]:
        if self.own is not None:
            return (Group(_account_of_principal(tenant, issuer, subject), self.own),)

        def choose(scope: Scope, counted: tuple[str, ...] = roles) -> RuleSet:
            chosen: dict[str, Rule] = {}
            for asked in (model,) if model is not None else ("", None):
                for rule in self.rules:
                    if rule.scope is scope and rule.matches(tenant, subject, counted, asked):
                        chosen.setdefault(rule.name, rule)
            return RuleSet(tuple(rule for rule in chosen.values() if not rule.unlimited))

        shared = [
            Group(account_of("global"), choose(Scope.GLOBAL)),
            Group(account_of("tenant", tenant), choose(Scope.TENANT), tenant),
        ]
        shared += [
            Group(account_of("role", tenant, role), choose(Scope.ROLE, (role,)), role)
            for role in sorted(set(roles))
        ]
        if model:
            shared.append(Group(account_of("model", model), choose(Scope.MODEL), model))
        own = Group(_account_of_principal(tenant, issuer, subject), choose(Scope.PRINCIPAL))
        return (*(group for group in shared if group.rules.rules), own)


@lru_cache(maxsize=16_384)
def account_of(*names: str) -> bytes:
    """Name an account; what it is made of cannot be read from it."""
    return digest(*(name.encode() for name in names))


def _account_of_principal(tenant: str, issuer: str, subject: str) -> bytes:
    """Name a principal's own account; not kept here, since the groups of its calls are."""
    return digest(b"principal", tenant.encode(), issuer.encode(), subject.encode())


def digest(*parts: bytes) -> bytes:
    """Return a name for some parts: 22 letters, another for whatever else they could be cut to."""
    text = b"".join([len(part).to_bytes(4) + part for part in parts])
    name = binascii.b2a_base64(hashlib.blake2b(text, digest_size=16).digest(), newline=False)
    return name[:NAME_LETTERS].translate(_URL_SAFE)
