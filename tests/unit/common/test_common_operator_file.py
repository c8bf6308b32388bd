"""Files that operators write: read strictly, looked at again and again."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from services.common.operator_file import MAX_BYTES, Lookout, OperatorFileError, parse, read
from tests.fakes.waiting import eventually


class Shape(msgspec.Struct, forbid_unknown_fields=True):
    """A file with one field."""

    size: int = 0


def test_a_good_file_has_its_shape() -> None:
    assert parse(b"size: 3\n", Shape) == Shape(3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"size: 2001-99-99\n", "a value cannot be read: month must be in 1..12"),
        (b"size: !!int x\n", "a value cannot be read"),
        (b"size: !!timestamp x\n", "a value cannot be read: it is no date"),
        (b"size: 0x_\n", "a value cannot be read"),
        (b"size: " + b"9" * 5000, "a value cannot be read"),
        (b"size: 1\nsize: 2\n", "line 1: 'size' stands twice"),
        (b"sise: 1\n", "unknown field `sise`"),
        (b"size: many\n", "`size`"),
        (b"[1]: 2\n", "unhashable"),
        (b"size: [", "line 1"),
        (b"[" * 100_000, "recursion"),
        (b" " * (MAX_BYTES + 1), "larger than"),
    ],
)
def test_what_is_wrong_is_said(text: bytes, says: str) -> None:
    with pytest.raises(OperatorFileError) as caught:
        parse(text, Shape)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorFileError, match=r"cannot read .*absent: No such file"):
        read(tmp_path / "absent")


async def test_a_lookout_goes_on_after_a_look_that_failed_and_looks_when_it_is_asked() -> None:
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0)
        if looks == 1:
            raise RuntimeError

    lookout = Lookout(look)
    lookout.start(3600.0)
    await asyncio.sleep(0)
    for count in (1, 2):
        lookout.ask()
        await eventually(lambda count=count: looks == count)  # type: ignore[misc]
    await lookout.close()
