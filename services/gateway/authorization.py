"""What a principal may do: deny by default, decided once for each set of roles."""

from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple, Protocol

from services.common.errors import PermissionDenied
from services.gateway.principal import Principal
from services.gateway.recent import Recent
from services.gateway.roles import (
    BUILT_IN_POLICY,
    EVERY,
    MODEL_SURFACES,
    Administration,
    Reach,
    Role,
    RolePolicy,
    is_plain,
    matches,
    reach_json,
)

MOST_ROLE_SETS: Final = 2_000
MOST_MODELS: Final = 256
_NOTHING: Final = Administration.NONE


class Scope(Enum):
    """Something that a role may allow."""

    GENERATE = "model calls"
    MODELS = "listing models"
    AUDIT_OWN = "reading one's own audit records"
    AUDIT_TENANT = "reading the audit records of one's tenant"
    AUDIT_ALL = "reading every audit record"
    AUDIT_KEYS = "reading keys of commitments"
    AUDIT_TEXTS = "reading captured texts"
    ADMIN_READ = "reading what administrators see"
    ADMIN = "administration"


class Surface(Protocol):
    """A way in; see `services.gateway.calls.Surface`."""

    @property
    def name(self) -> str:
        """As records show it."""
        ...

    @property
    def scope(self) -> Scope:
        """What a caller's roles must allow."""
        ...


class WayIn(NamedTuple):
    """A way in that is not recorded."""

    name: str
    scope: Scope


LISTING: Final = WayIn("models", Scope.MODELS)


class Permissions:
    """What a set of roles allows, whoever has it.

    Args:
        roles: those of them that there are.

    Attributes:
        scopes: what they allow.
        surfaces: the surfaces that they allow, model calls alone.
        records, keys, texts: whose of these they may read.
    """

    __slots__ = ("_deny", "_known", "_roles", "keys", "records", "scopes", "surfaces", "texts")

    def __init__(self, roles: Iterable[Role]) -> None:
        """Add up what the roles allow; what one of them denies of models, no other allows."""
        self._roles = tuple(roles)
        self.records = max((role.records for role in self._roles), default=Reach.NONE)
        self.keys = max((role.keys for role in self._roles), default=Reach.NONE)
        self.texts = max((role.texts for role in self._roles), default=Reach.NONE)
        self.surfaces = frozenset().union(*(role.surfaces for role in self._roles))
        self.scopes = frozenset(self._scopes())
        self._deny = tuple(pattern for role in self._roles for pattern in role.deny)
        self._known: Recent[tuple[str, str], bool] = Recent(MOST_MODELS)

    def summary(self) -> dict[str, object]:
        """Return what they allow, for the caller who has them; models are listed elsewhere."""
        administration = max((role.administration for role in self._roles), default=_NOTHING)
        return {
            "surfaces": sorted(self.surfaces),
            "audit": reach_json(self.records, self.keys, self.texts),
            "administration": administration.name.lower(),
        }

    def allows(self, surface: Surface) -> bool:
        """Return whether they allow a way in."""
        if surface.scope is Scope.GENERATE:
            return surface.name in self.surfaces
        return surface.scope in self.scopes

    def may_use(self, surface: str, model: str) -> bool:
        """Return whether one of the roles allows this model on this surface, and none denies it."""
        known = self._known.get((surface, model))
        if known is None:
            known = self._decide((surface,), model)
            self._known.put((surface, model), known)
        return known

    def may_see(self, model: str) -> bool:
        """Return whether the model may be used at all."""
        return self._decide(MODEL_SURFACES, model)

    def _decide(self, surfaces: Iterable[str], model: str) -> bool:
        if self._deny and (not is_plain(model) or matches(self._deny, model)):
            return False
        return any(
            not role.surfaces.isdisjoint(surfaces)
            and (EVERY in role.allow or matches(role.allow, model))
            for role in self._roles
        )

    def _scopes(self) -> Iterable[Scope]:
        administration = max((role.administration for role in self._roles), default=_NOTHING)
        held = {
            Scope.GENERATE: not self.surfaces.isdisjoint(MODEL_SURFACES),
            Scope.MODELS: "models" in self.surfaces,
            Scope.AUDIT_OWN: self.records >= Reach.OWN,
            Scope.AUDIT_TENANT: self.records >= Reach.TENANT,
            Scope.AUDIT_ALL: self.records >= Reach.ALL,
            Scope.AUDIT_KEYS: self.keys >= Reach.OWN,
            Scope.AUDIT_TEXTS: self.texts >= Reach.OWN,
            Scope.ADMIN_READ: administration >= Administration.READ,
            Scope.ADMIN: administration >= Administration.WRITE,
        }
        return (scope for scope, allowed in held.items() if allowed)


class Authorizer:
    """Decides by the roles of a principal.

    Args:
        policy: what each role allows; a role that is not there allows nothing.
    """

    def __init__(self, policy: RolePolicy = BUILT_IN_POLICY) -> None:
        """See the class."""
        self.adopt(policy)

    @property
    def policy(self) -> RolePolicy:
        """The policy in force."""
        return self._policy

    def adopt(self, policy: RolePolicy) -> None:
        """Let another policy decide from now on."""
        self._policy = policy
        self._permissions: Recent[tuple[str, ...], Permissions] = Recent(MOST_ROLE_SETS)

    def of(self, principal: Principal) -> Permissions:
        """Return what a principal may do; it costs a look-up."""
        permissions = self._permissions.get(principal.roles)
        if permissions is None:
            roles = self._policy.roles
            permissions = Permissions(roles[name] for name in principal.roles if name in roles)
            self._permissions.put(principal.roles, permissions)
        return permissions

    def allows(self, principal: Principal, scope: Scope) -> bool:
        """Return whether one of the principal's roles allows this."""
        return scope in self.of(principal).scopes

    def require(self, principal: Principal, surface: Surface) -> Permissions:
        """Return what a principal may do, if that includes a way in.

        Raises:
            PermissionDenied: it does not.
        """
        permissions = self.of(principal)
        if not permissions.allows(surface):
            raise self._denied(surface)
        return permissions

    def _denied(self, surface: Surface) -> PermissionDenied:
        """Return the refusal; it names the roles that would do, which is what helps."""
        what = surface.scope.value
        if surface.scope is Scope.GENERATE:
            what = f"{what} through `{surface.name}`"
        able = [
            name for name, role in self._policy.roles.items() if Permissions([role]).allows(surface)
        ]
        if not able:
            return PermissionDenied(f"Your roles do not allow {what}, and no role here does.")
        names = ", ".join(sorted(able)[:10])
        return PermissionDenied(f"Your roles do not allow {what}; one of these does: {names}.")
