"""Places at a target."""

import asyncio

import pytest

from services.model.gate import Gate, GateFullError, GatePolicy
from tests.fakes.instant import run


def test_places_go_to_those_who_waited_longest() -> None:
    async def main() -> list[int]:
        gate = Gate(GatePolicy(in_flight=1, queue=2, wait_s=10))
        came: list[int] = []

        async def enter(number: int) -> None:
            await gate.enter()
            came.append(number)

        await gate.enter()
        waiting = [asyncio.create_task(enter(number)) for number in range(2)]
        await asyncio.sleep(1)
        assert gate.waiting == 2
        with pytest.raises(GateFullError):
            await gate.enter()
        for _ in waiting:
            gate.leave()
            await asyncio.sleep(1)
        assert gate.in_flight == 1
        gate.leave()
        assert gate.in_flight == 0
        return came

    assert run(main()) == [0, 1]


def test_too_long_a_wait_is_refused_and_takes_no_place() -> None:
    async def main() -> None:
        gate = Gate(GatePolicy(in_flight=1, queue=1, wait_s=2))
        await gate.enter()
        with pytest.raises(GateFullError):
            await gate.enter()
        assert (gate.in_flight, gate.waiting) == (1, 0)

    run(main())


def test_who_leaves_the_queue_takes_no_place() -> None:
    async def main() -> None:
        gate = Gate(GatePolicy(in_flight=1, queue=2, wait_s=10))
        await gate.enter()
        first = asyncio.create_task(gate.enter())
        second = asyncio.create_task(gate.enter())
        await asyncio.sleep(1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert gate.waiting == 1
        gate.leave()
        await second
        assert (gate.in_flight, gate.waiting) == (1, 0)

    run(main())


def test_a_place_given_to_one_who_leaves_at_that_moment_goes_on() -> None:
    async def main() -> None:
        gate = Gate(GatePolicy(in_flight=1, queue=2, wait_s=10))
        await gate.enter()
        first = asyncio.create_task(gate.enter())
        second = asyncio.create_task(gate.enter())
        await asyncio.sleep(1)
        gate.leave()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await second
        gate.leave()
        assert (gate.in_flight, gate.waiting) == (0, 0)

    run(main())
