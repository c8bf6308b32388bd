"""Whether a store may hold limits: one that evicts keys forgets what was charged."""

from typing import Final

from services.common.valkey import Connection

_POLICY: Final = "noeviction"


async def unfit(connection: Connection) -> str:
    """Return why a store should not hold limits, in words for operators; empty when it may.

    It reads `INFO memory`, which managed stores allow where they forbid `CONFIG`.

    Raises:
        StoreUnavailable: it does not answer.
    """
    (reply,) = await connection.exchange([("INFO", "memory")])
    if isinstance(reply, Exception):
        return "its memory settings cannot be read (INFO is refused)"
    text = reply.decode() if isinstance(reply, bytes) else str(reply)
    fields = dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)
    problems = []
    policy = fields.get("maxmemory_policy", "")
    if policy != _POLICY:
        problems.append(f"maxmemory-policy is {policy or 'unknown'}, not {_POLICY}")
    if fields.get("maxmemory", "0") == "0":
        problems.append("maxmemory is not set")
    return " and ".join(problems)
