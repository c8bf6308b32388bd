"""The gateway's settings of tokens: which are believed, and what they say of their bearers."""

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from services.common.settings import CommaSeparated, CommonSettings, SettingsError

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "EdDSA")


class TokenSettings(CommonSettings):
    """What decides about JSON Web Tokens."""

    jwt_public_key: SecretStr | None = Field(
        None,
        validation_alias="WEAVER_JWT_PUBLIC_KEY",
        description=(
            "A public key, PEM, that verifies tokens: those without `kid`, and those whose `kid` "
            "no other key has."
        ),
    )
    jwt_keys_path: Path | None = Field(
        None,
        validation_alias="WEAVER_JWT_KEYS_PATH",
        description=(
            "More public keys: a directory of `<kid>.pem` files, or a JWKS file; read again when "
            "it changes."
        ),
    )
    jwt_jwks_url: str | None = Field(
        None,
        validation_alias="WEAVER_JWT_JWKS_URL",
        description="Where the issuer publishes its keys (JWKS); production takes https alone.",
    )
    jwt_jwks_ca: SecretStr | None = Field(
        None,
        validation_alias="WEAVER_JWT_JWKS_CA",
        description=(
            "The certificate authority, PEM, of the issuer's server; unset: those that the system "
            "trusts."
        ),
    )
    jwt_jwks_refresh_seconds: float = Field(
        300.0,
        ge=1,
        le=86_400,
        validation_alias="WEAVER_JWT_JWKS_REFRESH_SECONDS",
        description="How often the issuer's keys are fetched in the background.",
    )
    jwt_jwks_min_interval_seconds: float = Field(
        10.0,
        ge=0.1,
        le=3_600,
        validation_alias="WEAVER_JWT_JWKS_MIN_INTERVAL_SECONDS",
        description=(
            "The least time between two fetches: a token with a `kid` that is not known, or whose "
            "signature is not by the key of its `kid`, has the keys fetched again, at most this "
            "often."
        ),
    )
    jwt_algorithms: CommaSeparated = Field(
        ("RS256",),
        validation_alias="WEAVER_JWT_ALGORITHMS",
        description=(
            "The signature algorithms that are accepted, with commas between, of RS256, RS384, "
            "RS512, PS256, ES256 and EdDSA (Ed25519)."
        ),
    )
    jwt_issuer: str | None = Field(
        None,
        validation_alias="WEAVER_JWT_ISSUER",
        description="The `iss` that tokens must have; unset accepts any.",
    )
    jwt_audience: CommaSeparated = Field(
        (),
        validation_alias="WEAVER_JWT_AUDIENCE",
        description=(
            "The `aud` that tokens must have, or several with commas between of which they must "
            "have one; unset accepts any."
        ),
    )
    jwt_leeway_seconds: int = Field(
        30,
        ge=0,
        le=300,
        validation_alias="WEAVER_JWT_LEEWAY_SECONDS",
        description="How far the issuer's clock may be off: for `exp`, `nbf` and `iat`.",
    )
    jwt_roles_claim: str = Field(
        "roles",
        min_length=1,
        validation_alias="WEAVER_JWT_ROLES_CLAIM",
        description=(
            "The claim that holds the roles, as a list or as a text with spaces or commas between: "
            "its name (`roles`, `https://example.com/roles`), a path with dots "
            "(`realm_access.roles`), or a JSON Pointer (`/resource_access/my.client/roles`)."
        ),
    )
    jwt_default_roles: CommaSeparated = Field(
        ("user",),
        validation_alias="WEAVER_JWT_DEFAULT_ROLES",
        description="The roles of tokens without that claim; set to nothing, they have none.",
    )
    jwt_tenant_claim: str = Field(
        "tenant",
        min_length=1,
        validation_alias="WEAVER_JWT_TENANT_CLAIM",
        description="The claim that holds the tenant, named likewise.",
    )

    @field_validator("jwt_algorithms")
    @classmethod
    def _known_algorithms(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not set(ALGORITHMS).issuperset(value):
            msg = f"must be among {', '.join(ALGORITHMS)}"
            raise ValueError(msg)
        return value

    @field_validator("jwt_keys_path", "jwt_jwks_url", "jwt_issuer", mode="before")
    @classmethod
    def _set_to_nothing(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("jwt_issuer")
    @classmethod
    def _some_issuer(cls, value: str | None) -> str | None:
        if value == "apikey":
            msg = "must not be `apikey`: that is who vouches for API keys"
            raise ValueError(msg)
        return value

    def check_tokens(self) -> None:
        """Refuse what cannot verify a token, or believes too much.

        Raises:
            SettingsError: naming the variable.
        """
        if not (self.jwt_public_key or self.jwt_keys_path or self.jwt_jwks_url):
            msg = (
                "WEAVER_JWT_PUBLIC_KEY: WEAVER_AUTH_MODE has `jwt`, so a public key is needed, "
                "here or through WEAVER_JWT_KEYS_PATH or WEAVER_JWT_JWKS_URL."
            )
            raise SettingsError(msg)
        if self.jwt_jwks_url:
            self._check_url(self.jwt_jwks_url)

    def _check_url(self, url: str) -> None:
        name = "WEAVER_JWT_JWKS_URL"
        try:
            parts = urlsplit(url)
            known = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or True)
        except ValueError:
            known = False
        if not known or parts.username is not None or parts.fragment:
            msg = f"{name}: must be https://host/path, without a user and without a fragment."
            raise SettingsError(msg)
        if self.production and parts.scheme != "https":
            msg = f"{name}: production fetches keys over https alone."
            raise SettingsError(msg)
        if self.production and not self.jwt_audience:
            msg = (
                "WEAVER_JWT_AUDIENCE: an issuer with a JWKS signs for others too, so production "
                "needs the `aud` that is meant for this gateway."
            )
            raise SettingsError(msg)
