"""A deadline ends a block like `asyncio.timeout_at`, a little late and never early."""

import asyncio

import pytest

from services.common.deadlines import GRAIN_S, deadline, deadline_in


async def test_a_block_that_takes_too_long_is_ended_late_by_a_grain_at_most() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError), deadline_in(0.1) as scope:
        await asyncio.sleep(60)
    assert scope.expired
    assert 0.1 <= loop.time() - began < 0.1 + GRAIN_S + 1.0
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_a_block_that_is_in_time_is_left_alone() -> None:
    with deadline_in(0.01) as scope:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01 + 2 * GRAIN_S)
    assert not scope.expired


async def test_without_an_end_it_waits_for_ever() -> None:
    for scope in (deadline(None), deadline_in(None)):
        with scope:
            await asyncio.sleep(2 * GRAIN_S)


async def test_a_moment_that_has_passed_ends_the_block() -> None:
    with pytest.raises(TimeoutError), deadline(0.0):
        await asyncio.sleep(60)


async def test_a_cancellation_from_outside_stays_one() -> None:
    async def wait() -> None:
        with deadline_in(60):
            await asyncio.sleep(60)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_at_the_same_time_is_not_swallowed() -> None:
    async def wait() -> None:
        with deadline_in(0.01) as scope:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                assert scope.expired
                me = asyncio.current_task()
                assert me is not None
                me.cancel()
                raise

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(wait())


async def test_the_inner_of_two_blocks_ends_alone() -> None:
    with deadline_in(60) as outer:
        with pytest.raises(TimeoutError), deadline_in(0.01):
            await asyncio.sleep(60)
        await asyncio.sleep(0)
    assert not outer.expired


async def test_an_error_of_the_block_passes() -> None:
    with pytest.raises(ValueError, match="invalid literal"), deadline_in(60):
        int("own")


async def test_many_blocks_share_few_timers() -> None:
    loop = asyncio.get_running_loop()
    made = 0
    real = loop.call_at

    def counted(*args: object, **more: object) -> object:
        nonlocal made
        made += 1
        return real(*args, **more)  # type: ignore[arg-type]

    loop.call_at = counted  # type: ignore[method-assign, assignment]
    for _ in range(1_000):
        with deadline_in(5):
            pass
    assert made <= 1 + 1_000 * 0.001 / GRAIN_S + 2
