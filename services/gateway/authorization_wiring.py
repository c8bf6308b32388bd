"""From settings to what decides what callers may do."""

from collections.abc import Callable
from contextlib import AsyncExitStack

import structlog

from services.common.file_watch import FileWatch, Tell
from services.common.operator_file import OperatorFileError
from services.common.settings import SettingsError
from services.gateway import roles
from services.gateway.authorization import Authorizer
from services.gateway.roles import RolePolicy
from services.gateway.settings import GatewaySettings

_log = structlog.get_logger()


def open_authorizer(settings: GatewaySettings, stack: AsyncExitStack, tell: Tell) -> Authorizer:
    """Return what decides by roles; the stack stops what follows their file.

    Raises:
        SettingsError: the file declares no roles; the message names the variable.
    """
    authorizer = Authorizer()
    adopt = _adopting(authorizer, settings)
    if settings.roles_file is None:
        adopt(authorizer.policy)
        return authorizer
    watch = FileWatch(settings.roles_file, roles.parse, adopt, tell)
    try:
        adopt(watch.first())
    except OperatorFileError as error:
        msg = f"WEAVER_ROLES_FILE: {error}"
        raise SettingsError(msg) from None
    watch.start()
    stack.push_async_callback(watch.close)
    return authorizer


def _adopting(authorizer: Authorizer, settings: GatewaySettings) -> Callable[[RolePolicy], None]:
    """Return what adopts a policy and warns of roles that settings give and nobody declares."""
    given = {
        "WEAVER_API_KEY_ROLES": settings.api_key_roles,
        "WEAVER_JWT_DEFAULT_ROLES": settings.jwt_default_roles,
    }

    def adopt(policy: RolePolicy) -> None:
        authorizer.adopt(policy)
        for variable, names in given.items():
            unknown = [name for name in names if name not in policy.roles]
            if unknown:
                _log.warning("no such role: it allows nothing", setting=variable, roles=unknown)

    return adopt
