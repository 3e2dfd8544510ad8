"""Loaded weights exist once in a process."""

import gc
import threading
import weakref

from agent_memory.encoders import MiniLMEncoder
from agent_memory.encoders.resources import share


class Value:
    pass


def test_one_key_loads_once_whoever_asks_and_goes_with_its_last_user():
    loads, found = [], []

    def load():
        loads.append(1)
        return Value()

    threads = [threading.Thread(target=lambda: found.append(share("key", load))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1 and len(set(map(id, found))) == 1
    gone = weakref.ref(found[0])
    found.clear()
    gc.collect()
    assert gone() is None


def test_two_encoders_of_the_same_files_share_their_weights():
    one, other, exact = MiniLMEncoder(), MiniLMEncoder(), MiniLMEncoder(precision="int8")
    assert one.load() is other.load()
    assert exact.load() is not one.load()
