"""A real server on a free loopback port, with a checkpoint of random weights behind it."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection, connect
from xwam_client.protocol import packb, unpackb

from tests.examples import make_observation
from tests.train.encoded import write_checkpoint
from xwam.policy import Policy, load_policy
from xwam.presets import preset
from xwam.serve.server import open_server
from xwam.serve.service import ServeConfig, Service

CONFIG = preset("debug")


@pytest.fixture(scope="session")
def served_folder(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("served"), CONFIG)


@pytest.fixture(scope="session")
def policy(served_folder) -> Policy:
    return load_policy(served_folder)


class Running:
    """A server in a thread of its own, and what a robot needs to talk to it."""

    def __init__(self, service: Service, **door) -> None:
        self.service, self.port = service, 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(door)), daemon=True)

    async def _run(self, door) -> None:
        self.loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await open_server(self.service, "127.0.0.1", 0, **door)
        self.port = server.sockets[0].getsockname()[1]
        await self.service.start()
        self._ready.set()
        await self._stop.wait()
        await self.service.stop()
        server.close()
        await server.wait_closed()

    def __enter__(self) -> "Running":
        self._thread.start()
        assert self._ready.wait(120), "the server never became healthy"
        return self

    def __exit__(self, *_) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def dial(self, **how) -> ClientConnection:
        """A connection that has not yet heard the metadata."""
        return connect(f"ws://127.0.0.1:{self.port}/", compression=None, max_size=None, **how)

    @contextlib.contextmanager
    def robot(self, **how) -> Iterator[ClientConnection]:
        with self.dial(**how) as connection:
            assert hear(connection)["type"] == "metadata"
            yield connection


@pytest.fixture(scope="session")
def running(policy):
    config = ServeConfig(max_queue=16, max_batch=4, batch_window_ms=20.0)
    with Running(Service(policy, config, name="debug", hash_="0" * 16)) as server:
        yield server


def message(scene: int = 0, **more) -> dict:
    """An observation as a robot sends it."""
    observation = make_observation(CONFIG, seed=scene)
    return {"images": observation.images, "state": observation.state, "prompt": observation.instruction, **more}


def hear(connection, timeout: float = 60.0):
    data = connection.recv(timeout)
    return data if isinstance(data, str) else unpackb(data)


def ask(connection, **more):
    connection.send(packb(message(**more)))
    return hear(connection)


def until(true, timeout: float = 30.0) -> bool:
    """Wait for it; False when it does not come true."""
    end = time.monotonic() + timeout
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()
