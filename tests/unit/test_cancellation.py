"""A cancelled call of ``AsyncMemory`` has a known outcome when its caller hears of the cancellation."""

from __future__ import annotations

import asyncio
import threading

import pytest
from support import WordEncoder
from support_cancel import HoldingEncoder, cancel_at, hold_in_transaction

from agent_memory import AsyncMemory, ClosedError, Config, Memory


@pytest.fixture
def encoder():
    encoder = HoldingEncoder()
    yield encoder
    encoder.barrier.free.set()


@pytest.fixture
async def memory(folder, encoder):
    async with AsyncMemory(folder, encoder=encoder, config=Config(lock_timeout_s=30)) as memory:
        yield memory
        encoder.barrier.free.set()


async def count(memory):
    return len(await memory.entries())


async def test_what_is_cancelled_while_it_is_encoded_never_happens(memory, encoder):
    task = await cancel_at(encoder.barrier, memory.add_many([f"held {number}" for number in range(200)]))
    assert task.cancelled() and not encoder.barrier.free.is_set()
    await memory.forget(everything=True)
    await memory.add("a fresh start")
    encoder.barrier.free.set()
    await memory.close()
    with Memory(memory.path, encoder=WordEncoder()) as again:
        assert [entry.text for entry in again.entries()] == ["a fresh start"]


async def test_what_waits_for_a_thread_never_happens(memory, encoder):
    running = [asyncio.ensure_future(memory.add("held")) for _ in range(4)]
    await encoder.barrier.wait_for_thread()
    waiting = asyncio.ensure_future(memory.add("cancelled"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    encoder.barrier.free.set()
    await asyncio.gather(*running)
    assert {entry.text for entry in await memory.entries()} == {"held"}


async def test_what_waits_for_another_writer_never_happens(memory):
    await memory.add("first")
    with Memory(memory.path, encoder=WordEncoder()) as other, other._store.write(), pytest.raises(TimeoutError):
        await asyncio.wait_for(memory.add("second"), 0.2)
    await memory.add("third")
    assert [entry.text for entry in await memory.entries()] == ["first", "third"]


@pytest.mark.parametrize("times", [1, 5])
async def test_what_has_begun_to_write_happens_whole_before_the_cancellation_is_heard_of(memory, monkeypatch, times):
    barrier = hold_in_transaction(monkeypatch)
    texts = [f"text {number}" for number in range(150)]
    task = await cancel_at(barrier, memory.add_many(texts), times=times)
    assert not task.done()
    barrier.free.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [entry.text for entry in await memory.entries()] == texts


async def test_a_cancelled_forget_is_done_or_never_will_be(memory, monkeypatch):
    await memory.add("one", key="one")
    barrier = hold_in_transaction(monkeypatch)
    task = await cancel_at(barrier, memory.forget("one"))
    barrier.free.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await count(memory) == 0


async def test_a_failure_is_not_lost_behind_a_cancellation(memory, monkeypatch):
    barrier = hold_in_transaction(monkeypatch)
    barrier.wait_here, held = (lambda: (held(), 1 / 0)), barrier.wait_here
    task = await cancel_at(barrier, memory.add("one"))
    barrier.free.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert await count(memory) == 0


async def test_a_timeout_is_a_timeout_and_an_outer_one_counts_too(memory, monkeypatch):
    barrier = hold_in_transaction(monkeypatch)
    threading.Timer(0.3, barrier.free.set).start()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            async with asyncio.timeout(0.05):
                await memory.add("one")
    assert await count(memory) == 1


async def test_a_task_group_that_fails_leaves_no_write_under_way(memory, encoder):
    async def fail():
        await encoder.barrier.wait_for_thread()
        raise LookupError

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(memory.add("held"))
            group.create_task(memory.add("also held"))
            group.create_task(fail())
    encoder.barrier.free.set()
    await memory.close()
    with Memory(memory.path, encoder=WordEncoder()) as again:
        assert again.entries() == []


def test_a_loop_that_is_closed_under_a_call_gives_it_up(folder, encoder):
    loop = asyncio.new_event_loop()
    memory = loop.run_until_complete(AsyncMemory.open(folder, encoder=encoder))
    task = loop.create_task(memory.add("held"))
    loop.run_until_complete(encoder.barrier.wait_for_thread())
    task._log_destroy_pending = False
    loop.close()
    encoder.barrier.free.set()
    asyncio.run(memory.close())
    with Memory(folder, encoder=WordEncoder()) as again:
        assert again.entries() == []


async def test_a_cancelled_recall_ends_at_once(memory, encoder):
    await memory.add("one")
    task = await cancel_at(encoder.barrier, memory.recall("held"))
    assert task.cancelled()


async def test_cancelled_work_stops(memory):
    stop = threading.Event()
    task = asyncio.ensure_future(memory.work(stop))
    while not await memory.schedules():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stop.is_set()


async def test_a_backup_that_has_begun_is_whole(memory, folder):
    await memory.add_many([f"text {number}" for number in range(100)])
    target = folder.parent / "backup"
    task = asyncio.ensure_future(memory.backup(target))
    while not task.done() and not target.exists():
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await AsyncMemory.restore(target, folder.parent / "restored") == 100


async def test_an_opening_that_is_cancelled_leaves_nothing_open(folder):
    memory = AsyncMemory(folder, encoder=WordEncoder())
    task = asyncio.ensure_future(memory.__aenter__())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ClosedError):
        await memory.add("late")


async def test_a_close_that_is_cancelled_has_closed(memory):
    await memory.add("one")
    task = asyncio.ensure_future(memory.close())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ClosedError):
        await memory.add("late")
