"""Real servers for the client's tests: the debug preset with random weights, on loopback."""

import asyncio

import pytest

from tests.serve.conftest import Running, policy, served_folder  # noqa: F401 (fixtures)
from xwam.serve.server import open_server
from xwam.serve.service import ServeConfig, Service


class RunningAt(Running):
    """A server at a chosen port."""

    def __init__(self, service: Service, port: int, **door) -> None:
        super().__init__(service, **door)
        self.port = port

    async def _run(self, door) -> None:
        self.loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with await open_server(self.service, "127.0.0.1", self.port, **door):
            await self.service.start()
            self._ready.set()
            await self._stop.wait()
            await self.service.stop()


@pytest.fixture(scope="session")
def make_service(policy):  # noqa: F811
    """A new service around the one policy."""
    return lambda: Service(policy, ServeConfig(max_batch=2), name="debug", hash_="0" * 16)


@pytest.fixture(scope="module")
def server(make_service):
    with Running(make_service()) as running:
        yield running
