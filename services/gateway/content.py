"""What a deployment decides about the content of requests, as of now."""

from typing import Final

import msgspec

from services.common.errors import WeaverError
from services.gateway.guard import Guard, GuardSettings
from services.gateway.principal import Principal
from services.gateway.privacy import REDACT_ALL, Action, Policy, actions
from services.gateway.redaction import Redactor

_PASS_ALL: Final = actions(Action.PASS)


class Content:
    """Hands out what checks and redacts each request; what decides can change in between.

    Args:
        redact: whether personal data is taken out of prompts and answers.
        guard: what a request may be at most, whatever the policy.
    """

    __slots__ = ("_base", "_policy", "_redact", "guard")

    def __init__(self, *, redact: bool = True, guard: GuardSettings | None = None) -> None:
        """See the class."""
        self._redact = redact
        self._base = guard or GuardSettings()
        self._policy = Policy(REDACT_ALL)
        self.guard = Guard(self._base)

    def adopt(self, policy: Policy) -> None:
        """Let a policy decide from the next request on."""
        self._policy = policy
        settings = self._base
        if policy.references is not None:
            settings = msgspec.structs.replace(settings, references=policy.references)
        self.guard = Guard(msgspec.structs.replace(settings, links=policy.links))

    def redactor(self, principal: Principal) -> Redactor | None:
        """Return what redacts a request of a caller; None when personal data passes."""
        rules = self._policy.rules(principal)
        if self._redact:
            return Redactor(rules)
        if not (rules.patterns or rules.blocked_files):
            return None
        return Redactor(msgspec.structs.replace(rules, actions=_PASS_ALL))


def hide(error: WeaverError, redactor: Redactor | None) -> None:
    """Take personal data out of what a provider said when it refused."""
    if redactor is None:
        return
    error.message = redactor.text(error.message)
    vendor = error.metadata.get("vendor_body")
    if vendor is not None:
        hidden = redactor.json(vendor.encode()).decode()
        error.metadata = {**error.metadata, "vendor_body": hidden}
