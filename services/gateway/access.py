"""Who may call what: every method of the gateway, on one page.

The gateway does not start with a method that is missing here, and a test calls each method as
nobody, as somebody without a role, and with every permission but the one that it needs.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

from services.gateway.authorization import Scope


class Open(Enum):
    """A method that needs no permission."""

    ANYONE = "anyone"
    CALLERS = "every caller with a good credential"


ACCESS: Final[Mapping[str, Scope | Open]] = MappingProxyType(
    {
        "weaver.gateway.v1.GatewayService.Health": Open.ANYONE,
        "weaver.gateway.v1.GatewayService.GetHealthDetails": Scope.ADMIN_READ,
        "weaver.gateway.v1.GatewayService.WhoAmI": Open.CALLERS,
        "weaver.gateway.v1.GatewayService.Generate": Scope.GENERATE,
        "weaver.gateway.v1.GatewayService.GenerateStream": Scope.GENERATE,
        "weaver.gateway.v1.GatewayService.ChatCompletions": Scope.GENERATE,
        "weaver.gateway.v1.GatewayService.Responses": Scope.GENERATE,
        "weaver.gateway.v1.GatewayService.Messages": Scope.GENERATE,
        "weaver.gateway.v1.GatewayService.CountTokens": Scope.GENERATE,
        "weaver.gateway.v1.GatewayService.Embeddings": Scope.GENERATE,
        "weaver.gateway.v1.GatewayService.ListModels": Scope.MODELS,
        "weaver.gateway.v1.GatewayService.GetModel": Scope.MODELS,
        "weaver.gateway.v1.AuditReaderService.ListRecords": Scope.AUDIT_OWN,
        "weaver.gateway.v1.AuditReaderService.GetRecord": Scope.AUDIT_OWN,
        "weaver.gateway.v1.AuditReaderService.GetReceipt": Scope.AUDIT_OWN,
        "weaver.gateway.v1.AuditReaderService.GetCheckpoint": Scope.AUDIT_OWN,
        "weaver.gateway.v1.AuditReaderService.GetConsistencyProof": Scope.AUDIT_OWN,
        "weaver.gateway.v1.AuditReaderService.ListKeys": Scope.AUDIT_OWN,
        "weaver.gateway.v1.AuditReaderService.GetTile": Scope.AUDIT_ALL,
        "weaver.gateway.v1.AuditReaderService.GetCommitmentKey": Scope.AUDIT_KEYS,
        "weaver.gateway.v1.AuditReaderService.GetTexts": Scope.AUDIT_TEXTS,
        "weaver.gateway.v1.AuditAdminService.ForgetPrincipal": Scope.ADMIN,
        "weaver.gateway.v1.AuditAdminService.EraseRecords": Scope.ADMIN,
        "weaver.gateway.v1.AuditAdminService.LookUpPrincipal": Scope.ADMIN,
        "weaver.gateway.v1.AdminService.CreateApiKey": Scope.ADMIN,
        "weaver.gateway.v1.AdminService.ListApiKeys": Scope.ADMIN_READ,
        "weaver.gateway.v1.AdminService.GetApiKey": Scope.ADMIN_READ,
        "weaver.gateway.v1.AdminService.UpdateApiKey": Scope.ADMIN,
        "weaver.gateway.v1.AdminService.EnableApiKey": Scope.ADMIN,
        "weaver.gateway.v1.AdminService.DisableApiKey": Scope.ADMIN,
        "weaver.gateway.v1.AdminService.RotateApiKey": Scope.ADMIN,
        "weaver.gateway.v1.AdminService.GetUsage": Scope.ADMIN_READ,
        "weaver.gateway.v1.AdminService.GetPolicies": Scope.ADMIN_READ,
    }
)


def check(methods: Iterable[str]) -> None:
    """Refuse methods of which nobody has decided who may call them.

    Raises:
        LookupError: there is one; the message names it.
    """
    undecided = sorted(set(methods).difference(ACCESS))
    if undecided:
        msg = f"services/gateway/access.py does not say who may call {', '.join(undecided)}."
        raise LookupError(msg)
