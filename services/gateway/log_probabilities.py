"""Log probabilities spell a text token by token, so they go where the text was changed."""

import re
from typing import Any, Final

import msgspec

from services.common.errors import Unavailable

BAD_GATEWAY: Final = {"http_status": "502"}
_LOGPROBS: Final = re.compile(rb'"logprobs"[ \t\r\n]*+:[ \t\r\n]*+(?!null|\[\])')


def spells(data: bytes) -> bool:
    """Say whether an event holds log probabilities."""
    return b'"logprobs"' in data and _LOGPROBS.search(data) is not None


def without_logprobs(data: bytes) -> bytes:
    """Take out the log probabilities: they spell a text that was changed, token by token."""
    if not spells(data):
        return data
    try:
        return msgspec.json.encode(scrubbed(msgspec.json.decode(data)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        msg = "The provider's answer cannot be read."
        raise Unavailable(msg, reason="PROVIDER_FAILED", metadata=BAD_GATEWAY) from None


def scrubbed(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return JSON with every `logprobs` emptied, in whichever dialect it stands."""
    if isinstance(value, list):
        return [scrubbed(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: ([] if isinstance(item, list) else None) if name == "logprobs" else scrubbed(item)
        for name, item in value.items()
    }
