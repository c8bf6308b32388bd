"""The formats of credentials that their issuers made recognisable."""

import re
from typing import Final

# Each follows a word boundary. What is unbounded always succeeds where it has begun to repeat.
_FORMATS: Final = (
    rb"wv_[A-Za-z0-9_-]{16,}|wv-dev-[A-Za-z0-9_-]{8,}",  # ours
    rb"sk-[A-Za-z0-9_-]{20,}",  # OpenAI, Anthropic, OpenRouter, DeepSeek
    rb"(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA|ANVA|ABIA|ACCA)[A-Z0-9]{16}",  # AWS
    rb"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,}",
    rb"gl(?:pat|ptt|dt|rt|soat|cbt|ft)-[A-Za-z0-9_-]{20,}",
    rb"xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[0-9]-[A-Za-z0-9-]{20,}",  # Slack
    rb"AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,}",  # Google
    rb"[srp]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/]{24,}={0,2}",  # Stripe
    rb"hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|pypi-AgE[A-Za-z0-9_-]{32,}",
    rb"gsk_[A-Za-z0-9]{32,}|xai-[A-Za-z0-9]{32,}|pplx-[A-Za-z0-9]{32,}|r8_[A-Za-z0-9]{37}",
    rb"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{32,}|(?:SK|AC)[0-9a-f]{32}|key-[0-9a-f]{32}",
    rb"do[opr]_v1_[0-9a-f]{64}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|dapi[0-9a-f]{32}",
    rb"hv[sbr]\.[A-Za-z0-9_-]{24,}|dckr_pat_[A-Za-z0-9_-]{24,}|sq0[a-z]{3}-[A-Za-z0-9_-]{22,}",
    rb"AGE-SECRET-KEY-1[A-Z0-9]{58}|lin_api_[A-Za-z0-9]{32,}|ntn_[A-Za-z0-9]{40,}",
    rb"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}",  # Telegram
)
API_KEY: Final = b"|".join(_FORMATS)
# Named by what stands before: their form alone says nothing.
SECRET_NAMES: Final = rb"aws_secret_access_key|AccountKey|client_secret|SharedAccessKey"
NAMED_SECRET: Final = (
    rb"(?i:" + SECRET_NAMES + rb")"
    rb"[\x01\\\x22' ]{0,6}[=:][\x01\\\x22' ]{0,6}[A-Za-z0-9+/_~.-]{32,128}={0,2}"
)
SLACK_HOOK: Final = (
    rb"hooks\.slack\.com\x01?/services\x01?/T[A-Z0-9]{6,16}\x01?/B[A-Z0-9]{6,16}\x01?/"
    rb"[A-Za-z0-9]{16,}"
)
URL_PASSWORD: Final = rb":\x01?/\x01?/[A-Za-z0-9._~%+-]{0,64}:[A-Za-z0-9._~%!$&*+;=^-]{3,128}@"
PRIVATE_KEY: Final = (
    rb"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----"
    rb"(?:[A-Za-z0-9+/=\s\\\x01:,.()]|-[A-Za-z0-9])*"
    rb"(?:-----END [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----)?"
)
TOKEN: Final = rb"eyJ[A-Za-z0-9_.-]{20,}"

_KEY_MATERIAL: Final = re.compile(rb"[A-Za-z0-9+/]{32}")
_SEGMENTS: Final = re.compile(rb"eyJ[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*){2,4}")
_LAST_WORD: Final = re.compile(rb"[A-Za-z0-9+/_~.-]+={0,2}$")
_SHORTEST_PART: Final = 8
_LONGEST_STYLE: Final = 128


def is_api_key(text: bytes) -> bool:
    """Tell a key from words with hyphens between them, such as a name of a style.

    A longer one is taken for a key, since what is declined here is searched again from within.
    """
    return (
        len(text) > _LONGEST_STYLE
        or not text.startswith(b"sk-")
        or not (text[3:].replace(b"-", b"").replace(b"_", b"").isalpha() and text.count(b"-") > 1)
    )


def is_private_key(text: bytes) -> bool:
    """Tell a key from a sentence about keys."""
    return _KEY_MATERIAL.search(text, text.find(b"KEY-----") + 8) is not None


def token_end(text: bytes) -> int | None:
    """Return how long the token at the beginning of a text is; None when there is none."""
    match = _SEGMENTS.match(text)
    if match is None:
        return None
    token = match.group().rstrip(b".")
    segments = token.split(b".")
    if len(segments) < 3:  # noqa: PLR2004 - a JWS
        return None
    return len(token) if max(map(len, segments[1:])) >= _SHORTEST_PART else None


def named_secret(text: bytes) -> tuple[str, int, int]:
    """Return the secret after its name."""
    match = _LAST_WORD.search(text)
    return "API_KEY", match.start() if match else 0, len(text)


def url_password(text: bytes) -> tuple[str, int, int]:
    """Return the password of a URL, which stands before its `@`."""
    return "PASSWORD", text.index(b":", text.rindex(b"/") + 1) + 1, len(text) - 1
