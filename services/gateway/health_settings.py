"""Who learns how the suite is."""

from typing import Literal

from pydantic import Field

from services.common.settings import CommonSettings


class HealthSettings(CommonSettings):
    """The settings of `services.gateway.health`."""

    health_details: Literal["", "anyone", "administrators"] = Field(
        "",
        validation_alias="WEAVER_HEALTH_DETAILS",
        description=(
            "Who learns at `/health` what is below the parts of the suite, and its policies: "
            "`anyone`, or `administrators` alone, at `/v1/health`. Empty: `anyone` in development."
        ),
    )

    @property
    def public_health_details(self) -> bool:
        """Whether strangers learn everything."""
        who = self.health_details
        return who == "anyone" or (not who and self.environment == "development")
