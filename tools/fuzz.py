"""Fuzz what reads a client's bytes, with atheris: `make fuzz`, or `tools/fuzz.py TARGET SECONDS`.

atheris is no dependency of the project: `make fuzz` installs it into the virtual environment. Any
exception but a refusal is a finding, and so is JSON that was valid before and is not after.
"""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "gen")]

import atheris  # type: ignore[import-untyped] # noqa: E402 - the path comes first

with atheris.instrument_imports(include=["services.gateway"]):
    from services.common.errors import InvalidArgument, Unavailable
    from services.gateway import anthropic, openai, responses
    from services.gateway.event_redaction import MessageRedactor, ResponseRedactor
    from services.gateway.guard import Guard
    from services.gateway.redaction import Redactor
    from services.gateway.running_text import RunningText
    from services.gateway.stream_redaction import StreamRedactor
    from services.gateway.urls import URLRules


def bodies(data: bytes) -> None:
    """Read a body as each dialect does."""
    for read in (openai.chat, openai.embeddings, responses.responses, anthropic.messages):
        with suppress(InvalidArgument):
            Guard().check(read(data, 100).body)


def redaction(data: bytes) -> None:
    """Redact a body, and compare a stream of its text with the whole."""
    redacted = Redactor().prompt(data)
    with suppress(ValueError, RecursionError):
        json.loads(data)
        json.loads(redacted)
    text = data.decode("utf-8", "replace")
    running = RunningText(Redactor())
    "".join(map(running.feed, text))
    running.finish()


def events(data: bytes) -> None:
    """Redact the events of each dialect's streams."""
    for kind in (StreamRedactor, MessageRedactor, ResponseRedactor):
        with suppress(Unavailable):
            kind(Redactor()).events(b"data: " + data + b"\n\n")


def urls(data: bytes) -> None:
    """Judge a URL."""
    URLRules().problem(data.decode("utf-8", "replace"))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "bodies": bodies,
    "redaction": redaction,
    "events": events,
    "urls": urls,
}


def main() -> None:
    """Fuzz one target for so many seconds."""
    name, seconds = sys.argv[1], sys.argv[2]
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-max_len=4096"], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in TARGETS:  # noqa: PLR2004 - target and seconds
        sys.exit(f"usage: fuzz.py {'|'.join(TARGETS)} SECONDS")
    main()
