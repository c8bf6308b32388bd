"""The monitor: damage on the disk is found while the service runs, old files included."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.audit.checkpoint import SignedCheckpoint
from services.audit.verification.monitor import Monitor
from services.audit.verification.report import Finding, Report
from services.common.clock import SystemClock
from tests.fakes.biglog import checkpoint_of, entries, entry, keys_of, log_of, write_log

PATIENCE_S = 20.0


class Observer:
    """Remembers what it is told, and lets a test wait for it."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, bool]] = []
        self.failures: list[list[Finding]] = []
        self.errors: list[Exception] = []
        self._news = threading.Condition()

    def verified(self, report: Report, *, whole: bool) -> None:
        with self._news:
            self.sizes.append((report.size, whole))
            self._news.notify_all()

    def verification_failed(self, report: Report, findings: Sequence[Finding]) -> None:
        with self._news:
            self.failures.append(list(findings))
            self._news.notify_all()

    def verification_broke_off(self, error: Exception) -> None:
        with self._news:
            self.errors.append(error)
            self._news.notify_all()

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(condition, PATIENCE_S), (self.sizes, self.failures)


@contextmanager
def monitoring(
    log: Path, history: Callable[[bool], Sequence[SignedCheckpoint]] = lambda _whole: ()
) -> Iterator[Observer]:
    observer = Observer()
    monitor = Monitor(
        log,
        keys=keys_of,
        history=history,
        observer=observer,
        clock=SystemClock(),
        interval_s=0.02,
        share=1.0,
    )
    monitor.start()
    try:
        yield observer
    finally:
        monitor.close()


def swap(path: Path, data: bytes, elsewhere: Path) -> None:
    """Replace a file at once, so that nobody reads half of it."""
    (elsewhere / "made").write_bytes(data)
    (elsewhere / "made").replace(path)


def growing(directory: Path, *ends: int) -> tuple[Path, Iterator[None]]:
    """Return a log that grows by a step each time it is asked to."""
    whole = log_of(directory / "source", *ends)
    log = log_of(directory / "target", ends[0])

    def step() -> Iterator[None]:
        for end in ends[1:]:
            grown = log_of(directory / str(end), *ends[: ends.index(end) + 1])
            for path in sorted(grown.rglob("*"), key=lambda p: p.name == "checkpoint"):
                target = log / path.relative_to(grown)
                if path.is_dir():
                    target.mkdir(exist_ok=True)
                elif not target.exists() or path.name == "checkpoint":
                    path.replace(target)
            yield

    assert checkpoint_of(whole).checkpoint.size == ends[-1]
    return log, step()


def test_what_is_new_is_verified_as_it_comes(tmp_path: Path) -> None:
    log, steps = growing(tmp_path, 300, 301, 900)
    with monitoring(log) as observer:
        for size in (300, 301, 900):
            observer.wait(lambda size=size: any(at == size for at, _ in observer.sizes))  # type: ignore[misc]
            next(steps, None)
    assert observer.failures == []
    assert observer.sizes[0] == (300, True)


def test_a_change_to_an_old_file_is_found_without_anything_new(tmp_path: Path) -> None:
    log = log_of(tmp_path, 1_000)
    with monitoring(log) as observer:
        observer.wait(lambda: len(observer.sizes) > 2)
        path = log / "tile" / "entries" / "001"
        data = path.read_bytes()
        swap(path, data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], tmp_path)
        observer.wait(lambda: bool(observer.failures))
        (found,) = [f for f in observer.failures[0] if f.verdict == "integrity"]
        assert (found.kind, found.path, found.index) == ("changed", "tile/entries/001", 511)
        good = len(observer.sizes)
        swap(path, data, tmp_path)
        observer.wait(lambda: len(observer.sizes) > good)


def test_a_log_that_goes_back_or_forks_is_found(tmp_path: Path) -> None:
    log = log_of(tmp_path / "new", 600)
    before = checkpoint_of(log)
    other = log_of(tmp_path / "old", 500)
    with monitoring(log) as observer:
        observer.wait(lambda: bool(observer.sizes))
        (other / "checkpoint").replace(log / "checkpoint")
        observer.wait(lambda: bool(observer.failures))
    assert "rolled back" in {f.kind for f in observer.failures[0]}
    forged = write_log(tmp_path / "forged", [[entry(i + 1, reason="x") for i in range(700)]])
    with monitoring(forged, lambda _whole: [before]) as observer:
        observer.wait(lambda: bool(observer.failures))
    assert {f.kind for f in observer.failures[0]} == {"forked"}


def test_what_is_incomplete_is_told_once_and_a_hole_only_when_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write_log(tmp_path, [[*entries(0, 5), entry(9), entry(9)]])
    with monitoring(log) as observer:
        observer.wait(lambda: len(observer.sizes) > 3)
    assert [[f.kind for f in found] for found in observer.failures] == [["duplicated"]]
    monkeypatch.setattr("services.audit.verification.monitor._HOLE_GRACE_S", 0.05)
    with monitoring(log) as observer:
        observer.wait(lambda: len(observer.failures) > 1)
        seen = len(observer.sizes)
        observer.wait(lambda: len(observer.sizes) > seen + 3)
    assert [[f.kind for f in found] for found in observer.failures] == [
        ["duplicated"],
        ["missing"],
    ]


def test_a_log_that_cannot_be_read_is_said_and_tried_again(tmp_path: Path) -> None:
    log = log_of(tmp_path, 300)
    problems = [OSError("the disk is gone")]

    def history(_whole: bool) -> Sequence[SignedCheckpoint]:
        if problems:
            raise problems.pop()
        return ()

    with monitoring(log, history) as observer:
        observer.wait(lambda: bool(observer.sizes))
    assert [str(error) for error in observer.errors] == ["the disk is gone"]


def test_it_ends_at_once_in_the_middle_of_a_pass(tmp_path: Path) -> None:
    log = log_of(tmp_path, 20_000)
    observer = Observer()
    monitor = Monitor(
        log,
        keys=keys_of,
        history=lambda _whole: (),
        observer=observer,
        clock=SystemClock(),
        interval_s=60.0,
        share=0.001,
    )
    monitor.start()
    monitor.close()
    assert observer.failures == []
    assert observer.sizes == []
