"""A witness is on the open network: whoever dawdles holds nothing for long."""

import asyncio
import contextlib
import socket
from pathlib import Path

from services.audit.witnesses.server import WitnessServer
from services.audit.witnesses.store import FileWitnessStore, load_or_make_cosigners
from services.audit.witnesses.witness import Witness


async def test_a_request_head_that_trickles_in_ends_with_its_connection(tmp_path: Path) -> None:
    store = FileWitnessStore(tmp_path)
    witness = Witness(load_or_make_cosigners(tmp_path, "witness.test/w"), dict, store)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    end = await WitnessServer(witness, print, idle_s=1.0).start("127.0.0.1", port, None)
    try:
        slow_reader, slow = await asyncio.open_connection("127.0.0.1", port)
        silent_reader, silent = await asyncio.open_connection("127.0.0.1", port)
        good_reader, good = await asyncio.open_connection("127.0.0.1", port)

        async def trickle() -> None:
            for byte in b"POST /add-checkpoint HTTP/1.1\r\nx-slow: " + b"y" * 100:
                slow.write(bytes([byte]))
                await asyncio.sleep(0.1)

        dawdling = asyncio.create_task(trickle())
        for _ in range(6):
            good.write(b"GET / HTTP/1.1\r\nhost: w\r\n\r\n")
            assert (await good_reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.4)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):  # It was still writing.
                assert await slow_reader.read() == b""
            assert await silent_reader.read() == b""
        dawdling.cancel()
        await asyncio.gather(dawdling, return_exceptions=True)
        for writer in (slow, silent, good):
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    finally:
        await end()
        store.close()
