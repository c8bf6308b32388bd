"""What a principal may do: roles to scopes, deny by default."""

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from services.common.errors import PermissionDenied
from services.gateway.principal import Principal


class Scope(Enum):
    """Something that a role may allow."""

    GENERATE = "model calls"
    AUDIT_OWN = "reading one's own audit records"
    AUDIT_ALL = "reading every audit record"
    ADMIN = "administration"


BUILT_IN_ROLES: Mapping[str, frozenset[Scope]] = MappingProxyType(
    {
        "user": frozenset({Scope.GENERATE, Scope.AUDIT_OWN}),
        "service": frozenset({Scope.GENERATE, Scope.AUDIT_OWN}),
        "auditor": frozenset({Scope.AUDIT_OWN, Scope.AUDIT_ALL}),
        "admin": frozenset(Scope),
    }
)


class Authorizer:
    """Decides by the roles of a principal.

    Args:
        roles: what each role allows; a role that is not there allows nothing.
    """

    def __init__(self, roles: Mapping[str, frozenset[Scope]] = BUILT_IN_ROLES) -> None:
        """See the class."""
        self._roles = roles

    def allows(self, principal: Principal, scope: Scope) -> bool:
        """Return whether one of the principal's roles allows this."""
        return any(scope in self._roles.get(role, ()) for role in principal.roles)

    def require(self, principal: Principal, scope: Scope) -> None:
        """Refuse unless one of the principal's roles allows this.

        Raises:
            PermissionDenied: none does.
        """
        if not self.allows(principal, scope):
            able = ", ".join(
                sorted(role for role, scopes in self._roles.items() if scope in scopes)
            )
            msg = f"Your roles do not allow {scope.value}; one of these does: {able}."
            raise PermissionDenied(msg)
