"""The errors of Weaver, and nothing else.

    WeaverError
    ├── InvalidArgument      the request is malformed
    ├── Unauthenticated      no credential, or not a good one
    ├── PermissionDenied     a good credential that does not allow this
    ├── NotFound             no such thing, or not the caller's
    ├── AlreadyExists        the same name with other content
    ├── ResourceExhausted    a limit or a queue is full; `retry_after_s` says when to return
    ├── Unavailable          a dependency is gone; trying again may help
    ├── DeadlineExceeded     the time for the request is over
    ├── Unimplemented        not served here
    └── Internal             a defect; the caller learns the request id and nothing more

Domain code raises them; only the errors interceptor turns them into a gRPC status, by the one table
in `services.common.status`, and only `services.common.channel` turns a status back into them.
"""

from collections.abc import Mapping
from typing import ClassVar


class FieldViolation:
    """One field of a request that is wrong.

    Args:
        field: the path of the field, such as `messages[0].role`.
        description: what is wrong and what is allowed, as one sentence.
    """

    __slots__ = ("description", "field")

    def __init__(self, field: str, description: str) -> None:
        """See the class."""
        self.field = field
        self.description = description

    def __eq__(self, other: object) -> bool:
        """Compare by content."""
        return isinstance(other, FieldViolation) and (self.field, self.description) == (
            other.field,
            other.description,
        )

    def __hash__(self) -> int:
        """Hash by content."""
        return hash((self.field, self.description))

    def __repr__(self) -> str:
        """Show the field and the sentence."""
        return f"FieldViolation({self.field!r}, {self.description!r})"


class WeaverError(Exception):
    """An error that a caller is told about.

    Args:
        message: one sentence for the caller; never a secret, never an internal.
        reason: a name of `weaver.common.v1.ErrorReason` without its prefix.
        retry_after_s: seconds until trying again is worth it; None when unknown or pointless.
        violations: the fields that are wrong.
        metadata: further machine-readable facts, short ASCII keys and short values, such as
            `http_status` (where the HTTP status is not the table's) or `quota`.
    """

    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        retry_after_s: float | None = None,
        violations: tuple[FieldViolation, ...] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """See the class."""
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.retry_after_s = retry_after_s
        self.violations = violations
        self.metadata: Mapping[str, str] = metadata or {}


class InvalidArgument(WeaverError):  # noqa: N818 - the names are gRPC's codes
    """The request is malformed."""

    default_reason = "INVALID_REQUEST"

    @classmethod
    def of_field(cls, field: str, description: str) -> "InvalidArgument":
        """Return the error for one wrong field."""
        return cls(f"{field}: {description}", violations=(FieldViolation(field, description),))


class Unauthenticated(WeaverError):  # noqa: N818
    """No credential, or not a good one."""

    default_reason = "INVALID_CREDENTIAL"


class PermissionDenied(WeaverError):  # noqa: N818
    """A good credential that does not allow this."""

    default_reason = "PERMISSION_DENIED"


class NotFound(WeaverError):  # noqa: N818
    """No such thing, or not the caller's."""

    default_reason = "NOT_FOUND"


class AlreadyExists(WeaverError):  # noqa: N818
    """The same name with other content."""

    default_reason = "RECORD_CONFLICT"


class ResourceExhausted(WeaverError):  # noqa: N818
    """A limit or a queue is full."""

    default_reason = "RATE_LIMITED"


class Unavailable(WeaverError):  # noqa: N818
    """A dependency is gone; trying again may help."""

    default_reason = "OVERLOADED"


class DeadlineExceeded(WeaverError):  # noqa: N818
    """The time for the request is over."""

    default_reason = "DEADLINE_EXCEEDED"


class Unimplemented(WeaverError):  # noqa: N818
    """Not served here."""

    default_reason = "UNIMPLEMENTED"


class Internal(WeaverError):  # noqa: N818
    """A defect; the caller learns the request id and nothing more."""

    default_reason = "INTERNAL"
