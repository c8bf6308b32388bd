"""The gateway's settings of what prompts and answers may hold."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from services.common.settings import CommaSeparated, CommonSettings, SettingsError
from services.gateway.effort import MOST_CHECKS
from services.gateway.privacy import Action, PrivacyError, actions, blocked, finder


class RedactionSettings(CommonSettings):
    """Personal data, and what no request may be."""

    pii_redact: bool = Field(
        default=True,
        validation_alias="WEAVER_PII_REDACT",
        description="Take personal data out of prompts before they leave and of answers.",
    )
    pii_action: Literal["redact", "pseudonymize", "block"] = Field(
        "redact",
        validation_alias="WEAVER_PII_ACTION",
        description=(
            "What becomes of personal data: a placeholder (`redact`), a placeholder whose original "
            "returns in the answer (`pseudonymize`), or a refusal of the prompt (`block`)."
        ),
    )
    pii_types: CommaSeparated = Field(
        (),
        validation_alias="WEAVER_PII_TYPES",
        description=(
            "Other actions for single types, such as `card=block,ip_address=pass`; `pass` lets a "
            "type through. The types are in docs/operations/privacy.md."
        ),
    )
    pii_files: CommaSeparated = Field(
        (),
        validation_alias="WEAVER_PII_FILES",
        description=(
            "What becomes of files that cannot be searched, such as `documents=block,images=pass`: "
            "of `documents` (PDF and the like), `images`, `audio` and `video`, inline, by address "
            "or by id. All pass by default; texts are searched anyway."
        ),
    )
    pii_phone_regions: CommaSeparated = Field(
        (),
        validation_alias="WEAVER_PII_PHONE_REGIONS",
        description=(
            "Regions, such as `US,GB,DE`, whose telephone numbers are found also where they are "
            "written without a country code; empty: only those with `+` or `00`."
        ),
    )
    pii_max_checks: int = Field(
        MOST_CHECKS,
        ge=1_000,
        le=100_000_000,
        validation_alias="WEAVER_PII_MAX_CHECKS",
        description=(
            "How many candidates for personal data (numbers, addresses, …) may be checked in one "
            "body; more is refused with 400. Each costs 10 to 50 µs of a processor."
        ),
    )
    content_policy_file: Path | None = Field(
        None,
        validation_alias="WEAVER_CONTENT_POLICY_FILE",
        description=(
            "The file that says what is done about personal data, for whom, which patterns no "
            "prompt may hold and which hosts may be named "
            "(deploy/gateway/content-policy.yaml is an example); read again when it changes."
        ),
    )
    request_max_messages: int = Field(
        4096,
        ge=1,
        validation_alias="WEAVER_REQUEST_MAX_MESSAGES",
        description="The most messages, or items of an input, that a request may have.",
    )
    request_max_tools: int = Field(
        256,
        ge=0,
        validation_alias="WEAVER_REQUEST_MAX_TOOLS",
        description="The most tools that a request may offer.",
    )
    request_max_depth: int = Field(
        128,
        ge=8,
        le=500,
        validation_alias="WEAVER_REQUEST_MAX_DEPTH",
        description="How deep objects and arrays of a request may stand in one another.",
    )
    request_controls: Literal["none", "terminal", "all"] = Field(
        "terminal",
        validation_alias="WEAVER_REQUEST_CONTROL_CHARACTERS",
        description=(
            "Which control characters may stand in texts beside tab and line breaks: none, those "
            "that terminals write (bell, backspace, escape, …), or all."
        ),
    )
    request_private_urls: bool = Field(
        default=False,
        validation_alias="WEAVER_REQUEST_PRIVATE_URLS",
        description=(
            "Let pictures and documents be fetched from private networks; production refuses."
        ),
    )
    request_url_allow: CommaSeparated = Field(
        (),
        validation_alias="WEAVER_REQUEST_URL_ALLOW",
        description="The only hosts that pictures and documents may be fetched from; empty: all.",
    )
    request_url_deny: CommaSeparated = Field(
        (),
        validation_alias="WEAVER_REQUEST_URL_DENY",
        description="Hosts that they may not be fetched from, such as `*.example.com`.",
    )

    @property
    def pii_actions(self) -> dict[str, str]:
        """The actions of single types."""
        return _pairs(self.pii_types)

    @property
    def file_actions(self) -> dict[str, str]:
        """The actions of kinds of files."""
        return _pairs(self.pii_files)

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            SettingsError: naming the variable.
        """
        super().check()
        try:
            chosen = actions(Action(self.pii_action), self.pii_actions)
        except PrivacyError as error:
            msg = f"WEAVER_PII_TYPES: {error}"
            raise SettingsError(msg) from None
        try:
            blocked(self.file_actions)
        except PrivacyError as error:
            msg = f"WEAVER_PII_FILES: {error}"
            raise SettingsError(msg) from None
        try:
            finder(self.pii_phone_regions)
        except PrivacyError as error:
            msg = f"WEAVER_PII_PHONE_REGIONS: {error}"
            raise SettingsError(msg) from None
        if not self.production:
            return
        if not self.pii_redact:
            msg = "WEAVER_PII_REDACT: personal data must be redacted in production."
            raise SettingsError(msg)
        if all(action is Action.PASS for action in chosen.values()):
            msg = "WEAVER_PII_TYPES: every type passes; production redacts personal data."
            raise SettingsError(msg)
        if self.request_private_urls:
            msg = "WEAVER_REQUEST_PRIVATE_URLS: production refuses to fetch from private networks."
            raise SettingsError(msg)


def _pairs(settings: tuple[str, ...]) -> dict[str, str]:
    parts = (part.partition("=") for part in settings)
    return {name.strip(): action.strip() for name, _, action in parts}
