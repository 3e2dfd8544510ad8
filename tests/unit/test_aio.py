from __future__ import annotations

import asyncio
import inspect

import pytest
from support import WordEncoder

from agent_memory import AsyncMemory, ClosedError, Config, InvalidInputError, Memory


def test_it_does_what_memory_does(tmp_path):
    async def use():
        async with AsyncMemory(tmp_path / "store", encoder=WordEncoder()) as memory:
            await asyncio.gather(*(memory.add(f"text {number}", key=str(number)) for number in range(20)))
            hits = await asyncio.gather(*(memory.recall(f"text {number}", k=1) for number in range(20)))
            assert [hit[0].entry.key for hit in hits] == [str(number) for number in range(20)]
            assert (await memory.get("3")).text == "text 3"
            assert await memory.forget("3") == 1
            with pytest.raises(InvalidInputError):
                await memory.add("")
            assert (await memory.check()).ok
        with pytest.raises(ClosedError):
            await memory.add("late")

    asyncio.run(use())


def test_it_must_be_opened(tmp_path):
    async def use():
        closed = AsyncMemory(tmp_path / "store", encoder=WordEncoder())
        with pytest.raises(ClosedError):
            await closed.recall("x")
        await closed.close()
        memory = await AsyncMemory.open(tmp_path / "store", encoder=WordEncoder())
        await memory.add("x")
        await memory.close()

    asyncio.run(use())


def test_every_public_method_of_memory_is_there():
    for name, method in inspect.getmembers(Memory, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.iscoroutinefunction(getattr(AsyncMemory, name)), name
            if name != "close":
                assert inspect.signature(getattr(AsyncMemory, name)) == inspect.signature(method)


def test_it_tells_what_memory_tells(tmp_path):
    async def use():
        async with AsyncMemory(tmp_path / "store", encoder=WordEncoder(), namespace=("a",)) as memory:
            assert memory.encoder.spec.name == WordEncoder().spec.name
            assert memory.session_encoder is None
            assert (memory.path, memory.namespace) == (tmp_path / "store", ("a",))
            assert memory.config == Config() and "AsyncMemory(" in repr(memory)

    asyncio.run(use())
