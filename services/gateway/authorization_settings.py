"""The gateway's settings of what callers may do."""

from pathlib import Path

from pydantic import Field, field_validator

from services.common.settings import CommonSettings


class AuthorizationSettings(CommonSettings):
    """Where roles are declared."""

    roles_file: Path | None = Field(
        None,
        validation_alias="WEAVER_ROLES_FILE",
        description=(
            "The file that says what each role allows (deploy/gateway/roles.yaml is an example); "
            "read again when it changes. Unset: the built-in roles alone."
        ),
    )

    @field_validator("roles_file", mode="before")
    @classmethod
    def _no_file(cls, value: object) -> object:
        return None if value == "" else value
