"""Runs many `weaver` commands, each in a fork of one process that has loaded them all.

Each has its own environment, directory and output, as if it had been typed; only the interpreter
is not started anew. Reads command lines as JSON from standard input, writes what became of each.
"""

import contextlib
import importlib
import json
import os
import sys
import tempfile
import traceback

from services.cli.__main__ import COMMANDS, application


def run(words: list[str]) -> tuple[int, str]:
    """Run one command in a fork and return its status and all that it wrote."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                status = in_child(words, output.fileno())
            os._exit(status)
        _, ended = os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(ended), output.read().decode(errors="replace")


def in_child(words: list[str], output: int) -> int:
    """Run a command here, with its output going to a file."""
    for stream in (1, 2):
        os.dup2(output, stream)
    status = 1
    try:
        application(words)(words, standalone_mode=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - a test shows whatever it was
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def main() -> None:
    """Run every command that standard input names."""
    for module in COMMANDS.values():
        importlib.import_module(module)
    results = [run(words) for words in json.load(sys.stdin)]
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
