"""How a provider fails, and what the caller is told of it.

A provider's failure is never the caller's 500, and a provider that refuses *our* key is never the
caller's 401. What the provider says about the caller's own request passes on, cut and made ASCII,
because it travels in metadata.
"""

import email.utils
import json
import re
from collections.abc import Mapping
from typing import Any

from services.common.errors import (
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    WeaverError,
)

VENDOR_BODY_LIMIT = 3 * 1024
_BAD_GATEWAY: Mapping[str, str] = {"http_status": "502"}
_REJECTED = frozenset({400, 404, 413, 422})
# What OpenAI (429) and Anthropic (400) say of an account that has nothing left.
_USED_UP = (b'"insufficient_quota"', b'"Your credit balance is too low')
_TRANSIENT = frozenset({408, 409, 429})
_SERVER_ERRORS = 500
_NOT_FOUND = 404
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?")


class ProviderError(Exception):
    """One try failed.

    Args:
        error: what the caller is told when no other try helps.
        http_status: the provider's status; 0 when it gave none.
        retryable: whether the same target may be tried again.
        elsewhere: whether another target may answer what this one cannot be asked at all, such as a
            field that its dialect has no word for. The target itself was not called and is well.
        asked: whether the target was asked at all.
    """

    def __init__(
        self,
        error: WeaverError,
        *,
        http_status: int = 0,
        retryable: bool = False,
        elsewhere: bool = False,
        asked: bool = True,
    ) -> None:
        """See the class."""
        super().__init__(error.message)
        self.error = error
        self.http_status = http_status
        self.retryable = retryable
        self.elsewhere = elsewhere
        self.asked = asked

    @property
    def final(self) -> bool:
        """Whether no other target is worth asking: the request itself is at fault.

        A model that the provider does not know may be known at another.
        """
        if self.elsewhere or self.http_status == _NOT_FOUND:
            return False
        return isinstance(self.error, InvalidArgument)


def failed(
    sentence: str,
    *,
    http_status: int = 0,
    retryable: bool = True,
    retry_after_s: float | None = None,
) -> ProviderError:
    """Return the failure of a provider that is gone, broken or talks nonsense."""
    error = Unavailable(
        sentence, reason="PROVIDER_FAILED", retry_after_s=retry_after_s, metadata=_BAD_GATEWAY
    )
    return ProviderError(error, http_status=http_status, retryable=retryable)


def timed_out(sentence: str) -> ProviderError:
    """Return the failure of a provider that keeps silent."""
    return ProviderError(DeadlineExceeded(sentence))


def rejected(status: int, body: bytes, secret: str = "") -> ProviderError:
    """Return the failure of a request that the provider refuses as malformed.

    Args:
        status: the provider's status.
        body: the provider's words, which pass on.
        secret: the provider key, which never does.
    """
    shown = vendor_body(body, secret)
    metadata = {"http_status": str(status)} | ({"vendor_body": shown} if shown else {})
    sentence = _message(shown) or f"The provider refuses the request with status {status}."
    error = InvalidArgument(sentence, reason="PROVIDER_REJECTED", metadata=metadata)
    return ProviderError(error, http_status=status)


def untranslatable(field: str, description: str) -> ProviderError:
    """Return the failure of a request that a target's dialect cannot say.

    Args:
        field: its path in the caller's own body, such as `messages[0].content[1]`.
        description: what is wrong and what is allowed.
    """
    return ProviderError(InvalidArgument.of_field(field, description), elsewhere=True)


def resting(wait_s: float) -> ProviderError:
    """Return the failure of a target that was not asked, because it failed too often just now."""
    sentence = "The provider failed too often just now, so it is left alone for a moment."
    error = Unavailable(sentence, reason="PROVIDER_FAILED", retry_after_s=wait_s)
    return ProviderError(error, asked=False)


def crowded() -> ProviderError:
    """Return the failure of a target that was not asked, because too many calls are there."""
    sentence = "Too many calls are under way at the provider. Try again."
    error = Unavailable(sentence, reason="QUEUE_FULL", retry_after_s=1.0)
    return ProviderError(error, asked=False)


def worse(first: ProviderError, second: ProviderError) -> ProviderError:
    """Return which of two targets' failures the caller is told.

    A provider that throttles says when to return; one that failed says more than one that was not
    asked; a request that a target could not be asked comes last, and there the first one is told.
    """
    ranks = _rank(first), _rank(second)
    return second if ranks[1] > ranks[0] or ranks[0] == ranks[1] > 0 else first


def _rank(failure: ProviderError) -> int:
    if isinstance(failure.error, ResourceExhausted):
        return 3
    if isinstance(failure.error, InvalidArgument):
        return 0
    return 2 if failure.asked else 1


def from_status(
    status: int, headers: Mapping[str, str], body: bytes, *, secret: str = "", now: float
) -> ProviderError:
    """Return the failure that an HTTP answer other than 200 stands for.

    Args:
        status: the provider's status.
        headers: its headers; only `retry-after-ms` and `retry-after` are read.
        body: its words.
        secret: the provider key, which is cut out of what passes on.
        now: Unix seconds, for a `retry-after` that is a date.
    """
    used_up = any(words in body for words in _USED_UP)
    if status in _REJECTED and not used_up:
        return rejected(status, body, secret)
    wait_s = _asked_wait_s(headers, now)
    if status == 429 or used_up:  # noqa: PLR2004 - an HTTP status
        sentence = "The provider has no quota left." if used_up else "The provider throttles."
        throttled = ResourceExhausted(sentence, reason="PROVIDER_THROTTLED", retry_after_s=wait_s)
        return ProviderError(throttled, http_status=status, retryable=not used_up)
    if status in {401, 403}:
        return failed(
            "The provider refuses the gateway's own credentials.",
            http_status=status,
            retryable=False,
        )
    return failed(
        f"The provider answered with status {status}.",
        http_status=status,
        retryable=status in _TRANSIENT or status >= _SERVER_ERRORS,
        retry_after_s=wait_s,
    )


def _asked_wait_s(headers: Mapping[str, str], now: float) -> float | None:
    """Return how long the provider asks to wait; OpenAI and Azure say it in milliseconds too."""
    exact = headers.get("retry-after-ms", "")
    if _SECONDS.fullmatch(exact):
        return float(exact) / 1000
    return retry_after_s(headers.get("retry-after"), now)


def retry_after_s(value: str | None, now: float) -> float | None:
    """Return the seconds of a `Retry-After` (RFC 9110, section 10.2.3); None if it is none."""
    if value is None:
        return None
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def vendor_body(body: bytes, secret: str = "") -> str:
    """Return a provider's error object as ASCII JSON of at most 3 KiB; empty when it is none.

    Many servers keep to a vendor's API in their answers alone: an error that is a text (TGI), that
    lies flat (vLLM), or is a list of details (FastAPI) gets the shape that SDKs read.
    """
    if secret:
        body = body.replace(secret.encode(), b"[removed]")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(value, dict):
        return ""
    if not isinstance(value.get("error"), dict):
        value = _in_shape(value)
        if value is None:
            return ""
    text = json.dumps(value, separators=(",", ":"))
    if len(text) <= VENDOR_BODY_LIMIT:
        return text
    error = value["error"]
    if value.get("type") == "error":
        short = {"type": "error", "error": _short(error, "type", "message")}
    else:
        short = {"error": _short(error, "message", "type", "param", "code")}
    return json.dumps(short, separators=(",", ":"))


def _in_shape(value: Mapping[str, object]) -> dict[str, Any] | None:
    said = value.get("error") or value.get("message") or value.get("detail")
    if isinstance(said, list):
        said = "; ".join(filter(None, map(_detail, said)))
    if not isinstance(said, str) or not said:
        return None
    param, code = value.get("param"), value.get("code")
    return {
        "error": {
            "message": said,
            "type": "invalid_request_error",
            "param": param if isinstance(param, str) else None,
            "code": code if isinstance(code, str) else None,
        }
    }


def _detail(detail: object) -> str:
    """Return one of FastAPI's details as a sentence: where, and what is wrong there."""
    if not isinstance(detail, dict) or not isinstance(message := detail.get("msg"), str):
        return ""
    at = detail.get("loc")
    place = ".".join(str(step) for step in at if step != "body") if isinstance(at, list) else ""
    return f"{place}: {message}" if place else message


def _short(error: Mapping[str, object], *names: str) -> dict[str, str | None]:
    return {
        name: word[:200] if isinstance(word := error.get(name), str) else None for name in names
    }


def _message(shown: str) -> str:
    message = json.loads(shown)["error"].get("message") if shown else None
    return message[:500] if isinstance(message, str) else ""
