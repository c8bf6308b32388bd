"""Calls that ride together."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.batching import Batcher, Company, Gathering
from services.common.errors import Internal, ResourceExhausted


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    max_batch=st.integers(1, 7),
    bad=st.sets(st.integers(0, 60)),
    broken=st.sets(st.integers(0, 60)),
)
def test_each_caller_gets_its_own_result_in_order(
    sizes: list[int], max_batch: int, bad: set[int], broken: set[int]
) -> None:
    async def run() -> None:
        seen: list[int] = []

        async def send(items: Sequence[int]) -> list[int | Exception]:
            assert len(items) <= max_batch
            seen.extend(items)
            await asyncio.sleep(0)
            if broken & set(items):
                raise RuntimeError
            return [KeyError(item) if item in bad else -item for item in items]

        batcher: Batcher[int, int] = Batcher(send, max_batch=max_batch)
        futures: list[asyncio.Future[int]] = []
        for size in sizes:
            futures += [batcher.enqueue(len(futures) + step) for step in range(size)]
            await asyncio.sleep(0)
        results = await asyncio.gather(*futures, return_exceptions=True)
        await batcher.close()
        assert seen == list(range(sum(sizes)))
        for item, result in enumerate(results):
            if isinstance(result, RuntimeError):
                continue
            assert not broken & {item}
            if item in bad:
                assert isinstance(result, KeyError)
                assert result.args == (item,)
            else:
                assert result == -item

    asyncio.run(run())


async def test_what_gathers_while_a_batch_is_under_way_leaves_together() -> None:
    batches: list[list[int]] = []
    gate = asyncio.Event()

    async def send(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        await gate.wait()
        return list(items)

    batcher: Batcher[int, int] = Batcher(send)
    first = asyncio.create_task(batcher.submit(0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    rest = [asyncio.create_task(batcher.submit(item)) for item in (1, 2, 3)]
    await asyncio.sleep(0)
    gate.set()
    assert await asyncio.gather(first, *rest) == [0, 1, 2, 3]
    assert batches == [[0], [1, 2, 3]]


async def test_a_full_queue_refuses() -> None:
    gate = asyncio.Event()

    async def send(items: Sequence[int]) -> list[int]:
        await gate.wait()
        return list(items)

    batcher: Batcher[int, int] = Batcher(send, max_pending=2)
    first = asyncio.create_task(batcher.submit(0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting = [batcher.enqueue(1), batcher.enqueue(2)]
    with pytest.raises(ResourceExhausted) as caught:
        await batcher.submit(3)
    assert caught.value.reason == "QUEUE_FULL"
    gate.set()
    assert await asyncio.gather(first, *waiting) == [0, 1, 2]


async def test_a_caller_that_leaves_does_not_take_its_item_along() -> None:
    sent: list[int] = []
    gate = asyncio.Event()

    async def send(items: Sequence[int]) -> list[int]:
        await gate.wait()
        sent.extend(items)
        return list(items)

    batcher: Batcher[int, int] = Batcher(send)
    task = asyncio.create_task(batcher.submit(1))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    gate.set()
    await batcher.close()
    assert task.cancelled()
    assert sent == [1]


async def test_a_wrong_number_of_results_fails_the_batch() -> None:
    async def send(items: Sequence[int]) -> list[int]:
        return [0]

    batcher: Batcher[int, int] = Batcher(send)
    results = await asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True)
    assert [type(result) for result in results] == [Internal, Internal]


async def test_callers_of_a_cancelled_batch_do_not_hang() -> None:
    async def send(items: Sequence[int]) -> list[int]:
        raise asyncio.CancelledError

    batcher: Batcher[int, int] = Batcher(send)
    with pytest.raises(asyncio.CancelledError):
        await batcher.submit(1)


async def test_several_batches_can_be_under_way() -> None:
    under_way = 0
    most = 0

    async def send(items: Sequence[int]) -> list[int]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return list(items)

    batcher: Batcher[int, int] = Batcher(send, max_batch=1, concurrency=3)
    assert await asyncio.gather(*(batcher.submit(item) for item in range(9))) == list(range(9))
    assert most == 3


async def test_what_lingers_leaves_together_after_a_while_or_in_a_hurry() -> None:
    batches: list[list[int]] = []

    async def send(items: Sequence[int]) -> Sequence[int | Exception]:
        batches.append(list(items))
        return list(items)

    batcher: Batcher[int, int] = Batcher(send, linger_s=0.01)
    first = [batcher.enqueue(number) for number in range(3)]
    await asyncio.sleep(0)
    assert batches == []
    assert await asyncio.gather(*first) == [0, 1, 2]
    batcher = Batcher(send, linger_s=60.0)
    second = [batcher.enqueue(number) for number in range(2)]
    batcher.hurry()
    assert await asyncio.gather(*second) == [0, 1]
    third = batcher.enqueue(7)
    await batcher.close()
    assert third.result() == 7
    assert batches == [[0, 1, 2], [0, 1], [7]]


async def test_what_lingers_can_be_taken_elsewhere_and_comes_back_first() -> None:
    batches: list[list[int]] = []

    async def send(items: Sequence[int]) -> Sequence[int | Exception]:
        batches.append(list(items))
        return list(items)

    batcher: Batcher[int, int] = Batcher(send, linger_s=60.0, max_batch=2)
    assert batcher.take() == []
    futures = [batcher.enqueue(number) for number in range(3)]
    taken = batcher.take()
    assert [item for item, _ in taken] == [0, 1]
    batcher.back(taken)
    assert await asyncio.gather(*futures) == [0, 1, 2]
    assert batches == [[0, 1], [2]]
    fourth = batcher.enqueue(3)
    ((_, future),) = batcher.take()
    future.set_result(3)
    assert await fourth == 3
    await batcher.close()
    assert batches == [[0, 1], [2]]


def gathering_batcher(
    company: Company, batches: list[list[int]], longest_s: float = 30.0
) -> Batcher[int, int]:
    async def send(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        return list(items)

    return Batcher(send, gathering=Gathering(company, share=2, longest_s=longest_s))


async def test_a_lone_caller_waits_for_nobody() -> None:
    company, batches = Company(), list[list[int]]()
    batcher = gathering_batcher(company, batches)
    with company:
        async with asyncio.timeout(5):
            assert await batcher.submit(1) == 1


async def test_a_batch_waits_for_half_of_those_who_are_near() -> None:
    company, batches = Company(), list[list[int]]()
    batcher = gathering_batcher(company, batches)
    with company, company, company, company, company:
        first = batcher.enqueue(1)
        await asyncio.sleep(0.01)
        second = batcher.enqueue(2)
        await asyncio.sleep(0.01)
        assert batches == []
        third = batcher.enqueue(3)
        async with asyncio.timeout(5):
            assert list(await asyncio.gather(first, second, third)) == [1, 2, 3]
    assert batches == [[1, 2, 3]]


async def test_a_batch_waits_for_company_only_so_long() -> None:
    company, batches = Company(), list[list[int]]()
    batcher = gathering_batcher(company, batches, longest_s=0.01)
    with company, company, company:
        async with asyncio.timeout(5):
            assert await batcher.submit(1) == 1


async def test_who_waits_for_somebody_slow_is_no_company() -> None:
    company, batches = Company(), list[list[int]]()
    batcher = gathering_batcher(company, batches)
    with company, company, company, company.absence:
        assert company.near == 2
        async with asyncio.timeout(5):
            assert await batcher.submit(1) == 1
    assert company.near == 0


async def test_a_caller_that_comes_again_at_once_is_served_again() -> None:
    async def send(items: Sequence[int]) -> list[int | Exception]:
        return list(items)

    batcher: Batcher[int, int] = Batcher(send)
    async with asyncio.timeout(5):
        assert [await batcher.enqueue(number) for number in range(20)] == list(range(20))
