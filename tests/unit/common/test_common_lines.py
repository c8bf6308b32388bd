"""Lines in bunches."""

import json

from services.common.lines import LineWriter
from tests.fakes.waiting import eventually


class Sink:
    """Remembers each write."""

    def __init__(self, fail: type[Exception] | None = None) -> None:
        self.writes: list[bytes] = []
        self.fail = fail

    def write(self, data: bytes) -> None:
        if self.fail:
            raise self.fail
        self.writes.append(data)

    def flush(self) -> None:
        pass


def render(event: dict[str, object]) -> bytes:
    return json.dumps(event).encode()


def test_without_a_loop_a_line_goes_out_at_once() -> None:
    sink = Sink()
    LineWriter(sink, render).later(b"a")
    assert sink.writes == [b"a\n"]


async def test_within_a_loop_lines_wait_for_each_other() -> None:
    sink = Sink()
    writer = LineWriter(sink, render)
    writer.later(b"a")
    writer.later({"b": 1})
    assert sink.writes == []
    await eventually(lambda: bool(sink.writes))
    assert sink.writes == [b'a\n{"b": 1}\n']
    writer.later(b"c")
    await eventually(lambda: len(sink.writes) == 2)


async def test_an_urgent_line_takes_those_before_it_along() -> None:
    sink = Sink()
    writer = LineWriter(sink, render)
    writer.later(b"a")
    writer.now(b"b")
    assert sink.writes == [b"a\nb\n"]


async def test_many_lines_do_not_wait() -> None:
    sink = Sink()
    writer = LineWriter(sink, render)
    for _ in range(512):
        writer.later(b"a")
    assert len(sink.writes) == 1


def test_a_reader_that_is_gone_breaks_nothing() -> None:
    writer = LineWriter(Sink(BrokenPipeError), render)
    writer.now(b"a")
    writer.flush()
