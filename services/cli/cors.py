"""What pages of other origins may send and read: CORS, for browsers that call without a server.

Credentials are API keys and tokens in headers, never cookies, so no origin is given any.
"""

from collections.abc import Sequence
from typing import Any

METHODS = ("GET", "POST", "OPTIONS")
ALLOWED = (
    "authorization",
    "cache-control",
    "content-type",
    "traceparent",
    "tracestate",
    "idempotency-key",
    "openai-beta",
    "openai-organization",
    "openai-project",
    "x-api-key",
    "x-client-request-id",
    "x-request-id",
    *("anthropic-beta", "anthropic-version", "anthropic-dangerous-direct-browser-access"),
    # What the vendors' SDKs say of themselves.
    *(
        f"x-stainless-{what}"
        for what in (
            *("arch", "async", "helper", "helper-method", "lang", "os", "package-version"),
            *("poll-helper", "custom-poll-interval", "read-timeout", "retry-count", "runtime"),
            *("runtime-version", "timeout"),
        )
    ),
)
_AMOUNTS = ("limit", "remaining", "reset")
EXPOSED = (
    *("request-id", "x-request-id", "x-weaver-record", "x-weaver-provider", "x-weaver-attempts"),
    *("x-weaver-cache", "age", "x-weaver-left-out", "x-weaver-estimated", "x-upstream-request-id"),
    *("ratelimit", "ratelimit-policy", "retry-after", "retry-after-ms", "x-should-retry"),
    *(f"x-ratelimit-{amount}-{of}" for of in ("requests", "tokens") for amount in _AMOUNTS),
    *(
        f"anthropic-ratelimit-{of}-{amount}"
        for of in ("requests", "tokens", "input-tokens", "output-tokens")
        for amount in _AMOUNTS
    ),
)
MAX_AGE_S = 600


def cors_policy(origins: Sequence[str]) -> dict[str, Any]:
    """Return Envoy's policy for these origins; `*` is any."""
    matches = [{"safe_regex": {"regex": ".*"}} if o == "*" else {"exact": o} for o in origins]
    return {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": matches,
        "allow_methods": ", ".join(METHODS),
        "allow_headers": ", ".join(ALLOWED),
        "expose_headers": ", ".join(EXPOSED),
        "max_age": str(MAX_AGE_S),
        # A preflight from elsewhere is answered here too, and allows nothing.
        "forward_not_matching_preflights": False,
    }
