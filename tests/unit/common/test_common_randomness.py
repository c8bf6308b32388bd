"""Random bytes are drawn many at a time, and nobody gets the same."""

import os
import threading

from services.common.randomness import SIZE, random32


def test_nobody_gets_the_same_in_any_thread() -> None:
    drawn: list[bytes] = []

    def draw() -> None:
        drawn.extend(random32() for _ in range(2_000))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(drawn)) == len(drawn) == 8_000
    assert {len(one) for one in drawn} == {SIZE}


def test_a_forked_process_draws_its_own() -> None:
    random32()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"".join(random32() for _ in range(200)))
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 200 * SIZE)
    os.close(reading)
    os.close(writing)
    assert len(theirs) == 200 * SIZE
    mine = {random32() for _ in range(200)}
    assert not mine & {theirs[at : at + SIZE] for at in range(0, len(theirs), SIZE)}
