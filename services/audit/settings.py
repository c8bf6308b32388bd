"""The settings of the audit service."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from services.audit.keys.archive import GRACE_DAYS
from services.audit.note import valid_name
from services.common.settings import CommonSettings, SettingsError

_REPLICA = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class AuditSettings(CommonSettings):
    """What the audit service can be told."""

    listen: str = Field(
        "127.0.0.1:8003",
        validation_alias="WEAVER_AUDIT_LISTEN",
        description="Where the service listens: `host:port`.",
    )
    metrics_listen: str = Field(
        "127.0.0.1:9467",
        validation_alias="WEAVER_AUDIT_METRICS_LISTEN",
        description="Where Prometheus reads its metrics: `host:port`; empty for nowhere.",
    )
    health_listen: str = Field(
        "",
        validation_alias="WEAVER_AUDIT_HEALTH_LISTEN",
        description=(
            "Where health checks, and nothing else, are answered without TLS: `host:port`; empty: "
            "nowhere. In containers 0.0.0.0:9477."
        ),
    )
    allowed_clients: Annotated[frozenset[str], NoDecode] = Field(
        frozenset({"gateway", "ratelimit", "model"}),
        validation_alias="WEAVER_AUDIT_ALLOWED_CLIENTS",
        description="The services that may call, by the names in their certificates; commas.",
    )
    audit_path: Path | None = Field(
        None,
        validation_alias="WEAVER_AUDIT_PATH",
        description=(
            "The log's directory. What is not for outsiders lies beside it, in `<path>.private`. "
            "Unset: `audit/log` in the state directory."
        ),
    )
    origin: str = Field(
        "",
        validation_alias="WEAVER_AUDIT_ORIGIN",
        description=(
            "The log's name in its checkpoints, for good: no spaces, no plus. "
            "Unset: `weaver.local/<ENVIRONMENT>/<WEAVER_AUDIT_REPLICA>`."
        ),
    )
    replica: str = Field(
        "audit-0",
        validation_alias="WEAVER_AUDIT_REPLICA",
        description="Which audit replica this is; each has a log of its own.",
    )
    signing_enabled: bool = Field(
        default=True,
        validation_alias="WEAVER_TELEMETRY_SIGNING_ENABLED",
        description=(
            "`false` drops the RSA line of checkpoints (the Ed25519 line stays); "
            "production refuses."
        ),
    )
    signing_key: SecretStr | None = Field(
        None,
        validation_alias="WEAVER_TELEMETRY_SIGNING_KEY",
        description=(
            "The RSA private key in PEM. Unset: made on first start; production needs it."
        ),
    )
    signing_key_file: Path | None = Field(
        None,
        validation_alias="WEAVER_TELEMETRY_SIGNING_KEY_FILE",
        description=(
            "The file that holds the RSA private key, for its owner alone. It is read again when "
            "it changes, and on SIGHUP."
        ),
    )
    signing_key_passphrase: SecretStr | None = Field(
        None,
        validation_alias="WEAVER_TELEMETRY_SIGNING_KEY_PASSPHRASE",
        description="Opens the RSA private key, and the previous one, where they are encrypted.",
    )
    signing_key_passphrase_file: Path | None = Field(
        None,
        validation_alias="WEAVER_TELEMETRY_SIGNING_KEY_PASSPHRASE_FILE",
        description="The file that holds that passphrase.",
    )
    signing_key_previous: SecretStr | None = Field(
        None,
        validation_alias="WEAVER_TELEMETRY_SIGNING_KEY_PREVIOUS",
        description=(
            "The RSA private key that the new one replaces: it endorses the new one and then "
            "signs no more. Without it a change over a restart is recorded as unendorsed."
        ),
    )
    signing_key_previous_file: Path | None = Field(
        None,
        validation_alias="WEAVER_TELEMETRY_SIGNING_KEY_PREVIOUS_FILE",
        description="The file that holds it. Unset: `<key>.previous.pem` beside the key's file.",
    )
    verification_key: SecretStr | None = Field(
        None,
        validation_alias="WEAVER_TELEMETRY_VERIFICATION_KEY",
        description="The RSA public key in PEM; when set, it must be the signing key's half.",
    )
    verification_key_file: Path | None = Field(
        None,
        validation_alias="WEAVER_TELEMETRY_VERIFICATION_KEY_FILE",
        description="The file that holds the RSA public key.",
    )
    key_grace_days: float = Field(
        GRACE_DAYS,
        ge=0,
        le=3650,
        validation_alias="WEAVER_TELEMETRY_KEY_GRACE_DAYS",
        description=(
            "For how long a retired key is accepted: who holds it alone may follow its "
            "endorsement to the new one, and it may come back into use."
        ),
    )
    key_poll_seconds: float = Field(
        2.0,
        ge=0.05,
        le=3600,
        validation_alias="WEAVER_TELEMETRY_KEY_POLL_SECONDS",
        description="How often the files of keys are looked at.",
    )
    ed25519_key: SecretStr | None = Field(
        None,
        validation_alias="WEAVER_AUDIT_ED25519_KEY",
        description=(
            "The Ed25519 private key in PEM. Unset: made on first start; production needs it."
        ),
    )
    ed25519_key_file: Path | None = Field(
        None,
        validation_alias="WEAVER_AUDIT_ED25519_KEY_FILE",
        description="The file that holds the Ed25519 private key, for its owner alone.",
    )
    ed25519_key_passphrase: SecretStr | None = Field(
        None,
        validation_alias="WEAVER_AUDIT_ED25519_KEY_PASSPHRASE",
        description="Opens the Ed25519 private key where it is encrypted.",
    )
    ed25519_key_passphrase_file: Path | None = Field(
        None,
        validation_alias="WEAVER_AUDIT_ED25519_KEY_PASSPHRASE_FILE",
        description="The file that holds that passphrase.",
    )
    ed25519_key_previous: SecretStr | None = Field(
        None,
        validation_alias="WEAVER_AUDIT_ED25519_KEY_PREVIOUS",
        description="The Ed25519 private key that the new one replaces.",
    )
    ed25519_key_previous_file: Path | None = Field(
        None,
        validation_alias="WEAVER_AUDIT_ED25519_KEY_PREVIOUS_FILE",
        description="The file that holds it. Unset: `<key>.previous.pem` beside the key's file.",
    )
    store_key: SecretStr | None = Field(
        None,
        validation_alias="WEAVER_AUDIT_STORE_KEY",
        description=(
            "What locks the side store: 32 random bytes, hexadecimal or base64. "
            "Unset: made on first start; production needs it."
        ),
    )
    store_key_file: Path | None = Field(
        None,
        validation_alias="WEAVER_AUDIT_STORE_KEY_FILE",
        description="The file that holds it; not readable by everybody.",
    )
    store_key_previous: SecretStr | None = Field(
        None,
        validation_alias="WEAVER_AUDIT_STORE_KEY_PREVIOUS",
        description=(
            "The key before it, for the one start that seals the side store anew; or `_FILE`."
        ),
    )
    principal: Literal["plain", "pseudonym"] | None = Field(
        None,
        validation_alias="WEAVER_AUDIT_PRINCIPAL",
        description=(
            "How records name callers: `pseudonym` can be forgotten by `weaver audit forget`. "
            "Unset: `pseudonym` in production, else `plain`."
        ),
    )
    checkpoint_interval_ms: int = Field(
        250,
        ge=0,
        le=900,
        validation_alias="WEAVER_AUDIT_CHECKPOINT_INTERVAL_MS",
        description="How long a durable record waits for its signed checkpoint.",
    )
    max_pending: int = Field(
        16_384,
        ge=1_000,
        le=1_000_000,
        validation_alias="WEAVER_AUDIT_MAX_PENDING",
        description="Records that wait to become durable, at most; beyond it appends are refused.",
    )

    witness_policy: Path | None = Field(
        None,
        validation_alias="WEAVER_AUDIT_WITNESS_POLICY",
        description=(
            "A C2SP tlog-policy file: each of its witnesses with a URL is sent checkpoints to "
            "cosign. Unset: no witnesses."
        ),
    )
    witness_interval_s: float = Field(
        1.0,
        ge=0.1,
        le=3600,
        validation_alias="WEAVER_AUDIT_WITNESS_INTERVAL_S",
        description="The least time between two checkpoints that are sent to witnesses.",
    )
    witness_ca: Path | None = Field(
        None,
        validation_alias="WEAVER_AUDIT_WITNESS_CA",
        description="Certificates in PEM to trust for witnesses besides the machine's own.",
    )

    monitor_interval_s: float = Field(
        15.0,
        ge=0,
        le=3_600,
        validation_alias="WEAVER_AUDIT_MONITOR_INTERVAL_SECONDS",
        description=(
            "How often the service verifies what is new in its log on the disk, and the least "
            "pause between two readings of the whole; 0 switches the monitor off."
        ),
    )
    monitor_cpu_percent: float = Field(
        5.0,
        gt=0,
        le=100,
        validation_alias="WEAVER_AUDIT_MONITOR_CPU_PERCENT",
        description="How much of one processor the monitor takes at most.",
    )

    retention_days: int = Field(
        0,
        ge=0,
        le=36_500,
        validation_alias="WEAVER_AUDIT_RETENTION_DAYS",
        description=(
            "Entry bundles whose records are all older than so many days are removed, once they "
            "are archived; every hash stays. 0 keeps all."
        ),
    )
    retention_unarchived: bool = Field(
        default=False,
        validation_alias="WEAVER_AUDIT_RETENTION_UNARCHIVED",
        description="Remove also what no good archive holds: then it is gone for good.",
    )

    @field_validator("allowed_clients", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return frozenset(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("origin")
    @classmethod
    def _name(cls, value: str) -> str:
        if value and not valid_name(value):
            msg = "must be a name without spaces, plus signs or controls"
            raise ValueError(msg)
        return value

    @field_validator("replica")
    @classmethod
    def _plain(cls, value: str) -> str:
        if _REPLICA.fullmatch(value) is None:
            msg = "must be up to 64 letters, digits, dots, dashes or underscores"
            raise ValueError(msg)
        return value

    @property
    def log_path(self) -> Path:
        """The log's directory, set or default."""
        return self.audit_path or self.state_dir / "audit" / "log"

    @property
    def pseudonyms(self) -> bool:
        """Whether records name callers by pseudonyms."""
        return self.production if self.principal is None else self.principal == "pseudonym"

    @property
    def keys_path(self) -> Path:
        """Where keys are made in development."""
        return self.state_dir / "keys"

    @property
    def log_origin(self) -> str:
        """The log's name, set or default."""
        return self.origin or f"weaver.local/{self.environment}/{self.replica}"

    def check(self) -> None:
        """Refuse what production must not run with.

        Raises:
            SettingsError: naming the variable.
        """
        super().check()
        if not self.production:
            return
        if not self.signing_enabled:
            msg = "WEAVER_TELEMETRY_SIGNING_ENABLED: signing cannot be switched off in production."
            raise SettingsError(msg)
        for name, value in (
            ("WEAVER_TELEMETRY_SIGNING_KEY", self.signing_key),
            ("WEAVER_AUDIT_ED25519_KEY", self.ed25519_key),
            ("WEAVER_AUDIT_STORE_KEY", self.store_key),
        ):
            if value is not None and not value.get_secret_value().strip():
                where = f"{name}_FILE" if f"{name}_FILE" in os.environ else name
                msg = f"{where}: is empty; production needs a key of its own."
                raise SettingsError(msg)
            if value is None:
                msg = f"{name}: production needs a key of its own; set it, or {name}_FILE."
                raise SettingsError(msg)
