"""What a disk holds after a power cut: only what was synchronised, and whatever else it pleases.

A trace of system calls is replayed into a model of files and directories that knows, of each, what
is in the page cache and what was made durable. At any moment the model can be written out as a disk
might be found: POSIX promises what was synchronised, and nothing of the rest.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

CALLS = "openat,close,write,pwrite64,ftruncate,truncate,fsync,fdatasync,rename,unlink,rmdir,mkdir"
OPTIONS = ("-xx", "-s", "100000000", "-e", f"trace={CALLS}")
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)")
_BEGUN = re.compile(r"^(\d+) +(\w+\(.*) <unfinished \.\.\.>$")
_ENDED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


class Found(Enum):
    """How the disk is found."""

    STRICT = "what was synchronised and nothing else"
    NAMES = "every name, but of the files only what was synchronised"
    DATA = "every byte, but only the names that were synchronised"
    TORN = "names and files that were synchronised, and half of each write since"


@dataclass
class File:
    """A file: its bytes in the page cache, and those on the disk."""

    cached: bytearray = field(default_factory=bytearray)
    durable: bytes = b""

    def found(self, how: Found) -> bytes:
        """Return what the disk has of it."""
        if how is Found.DATA:
            return bytes(self.cached)
        if how is Found.TORN and self.cached != self.durable:
            same = next(
                (
                    i
                    for i, (a, b) in enumerate(zip(self.cached, self.durable, strict=False))
                    if a != b
                ),
                min(len(self.cached), len(self.durable)),
            )
            return bytes(self.cached[: (same + len(self.cached)) // 2])
        return self.durable


@dataclass
class Directory:
    """A directory: its names in the cache, and those on the disk."""

    cached: dict[str, "File | Directory"] = field(default_factory=dict)
    durable: dict[str, "File | Directory"] = field(default_factory=dict)


@dataclass
class _Open:
    node: File | Directory
    position: int = 0
    appends: bool = False


class Disk:
    """The disk below one directory, which itself is durable."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tree = Directory()
        self._open: dict[int, _Open] = {}
        self.said: list[bytes] = []

    def replay(self, trace: str) -> Iterator[tuple[int, str]]:
        """Apply call after call; yield the number and the name of each that synchronises."""
        for number, (call, arguments, result) in enumerate(_calls(trace)):
            if result < 0:
                continue
            if call in {"fsync", "fdatasync"} and int(arguments) in self._open:
                yield number, f"before {call}"
            self._apply(call, arguments, result)
            if call in {"fsync", "fdatasync"} and int(arguments) in self._open:
                yield number, f"after {call}"

    def write_out(self, target: Path, how: Found) -> None:
        """Write the disk out as it may be found."""
        _write_out(self._tree, target, how)

    def _apply(self, call: str, arguments: str, result: int) -> None:
        strings = [bytes.fromhex(s.replace("\\x", "")) for s in _STRING.findall(arguments)]
        if call in {"openat", "mkdir", "rename", "unlink", "rmdir", "truncate"}:
            self._apply_to_names(call, arguments, [s.decode() for s in strings], result)
            return
        descriptor = int(arguments.split(",", maxsplit=1)[0])
        opened = self._open.get(descriptor)
        if opened is None:
            if call == "write" and strings and strings[0].startswith(b"{"):
                self.said.append(strings[0].rstrip(b"\n"))
        elif call == "close":
            del self._open[descriptor]
        elif call in {"fsync", "fdatasync"}:
            node = opened.node
            if isinstance(node, File):
                node.durable = bytes(node.cached)
            else:
                node.durable = dict(node.cached)
        elif isinstance(opened.node, File):
            self._change(call, arguments, strings, opened, result)

    def _change(
        self, call: str, arguments: str, strings: list[bytes], opened: _Open, result: int
    ) -> None:
        cached = opened.node.cached
        assert isinstance(cached, bytearray)
        if call == "ftruncate":
            del cached[int(arguments.rpartition(",")[2]) :]
            return
        at = int(arguments.rpartition(",")[2]) if call == "pwrite64" else opened.position
        if opened.appends:
            at = len(cached)
        if at > len(cached):
            cached.extend(bytes(at - len(cached)))
        cached[at : at + result] = strings[0][:result]
        if call == "write":
            opened.position = at + result

    def _apply_to_names(self, call: str, arguments: str, paths: list[str], result: int) -> None:
        places = [self._place(path) for path in paths]
        place = places[0]
        if place is None:
            return
        parent, name = place
        if call == "mkdir":
            parent.cached[name] = Directory()
        elif call in {"unlink", "rmdir"}:
            parent.cached.pop(name, None)
        elif call == "rename":
            target = places[1]
            assert target is not None
            target[0].cached[target[1]] = parent.cached.pop(name)
        elif call == "truncate":
            node = parent.cached[name]
            assert isinstance(node, File)
            del node.cached[int(arguments.rpartition(",")[2]) :]
        else:
            opened = parent.cached.setdefault(name, File()) if name else parent
            if "O_TRUNC" in arguments and isinstance(opened, File):
                opened.cached.clear()
            self._open[result] = _Open(opened, appends="O_APPEND" in arguments)

    def _place(self, path: str) -> tuple[Directory, str] | None:
        """Return the directory and the name of a path; None for what lies elsewhere."""
        if path == str(self._root):
            return self._tree, ""
        if not path.startswith(f"{self._root}/"):
            return None
        *parts, name = path.removeprefix(f"{self._root}/").split("/")
        directory = self._tree
        for part in parts:
            below = directory.cached.get(part)
            assert isinstance(below, Directory), path
            directory = below
        return directory, name


def _write_out(directory: Directory, target: Path, how: Found) -> None:
    target.mkdir(mode=0o700)
    names = directory.cached if how is Found.NAMES else directory.durable
    for name, node in names.items():
        if isinstance(node, Directory):
            _write_out(node, target / name, how)
        else:
            (target / name).touch(mode=0o600)
            (target / name).write_bytes(node.found(how))


def _calls(trace: str) -> Iterator[tuple[str, str, int]]:
    """Yield name, arguments and result of each call, in the order in which they ended."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        whole = line
        if (start := _BEGUN.match(line)) is not None:
            begun[start[1]] = start[2]
            continue
        if (end := _ENDED.match(line)) is not None:
            whole = f"{end[1]} {begun.pop(end[1], '')}{end[2]}"
        match = _LINE.match(whole)
        if match is not None:
            yield match[2], match[3], int(match[4])
