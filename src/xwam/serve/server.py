"""The service on a websocket, with its health and metrics over plain HTTP on the same port."""

import asyncio
import logging
import signal
from http import HTTPStatus
from typing import NoReturn

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from xwam.serve.conversation import converse
from xwam.serve.service import Service
from xwam.serve.wire import LIMITS, knows_key

LOG = logging.getLogger("xwam.serve")
LOOK_S = 1.0  # how often the worker is looked at
FAILED_S = 5.0  # a server that failed answers for so long yet: robots hear their refusals, watchers the bad health


async def open_server(
    service: Service,
    host: str,
    port: int,
    *,
    api_key: str | None = None,
    ping_s: float = 20.0,
    open_timeout_s: float = 10.0,
) -> Server:
    """Listen. Half-open connections end within ``open_timeout_s``, dead ones within twice ``ping_s``."""

    async def answer(connection: ServerConnection) -> None:
        try:
            await converse(service, connection, connection.send)
        except ConnectionClosed as error:
            LOG.info("connection lost: %s", error)
        except TimeoutError:
            LOG.info("connection ended: answers were not taken in time")

    def door(connection: ServerConnection, request: Request) -> Response | None:
        return _door(service, api_key, connection, request)

    return await serve(
        answer,
        host,
        port,
        process_request=door,
        origins=[None],  # web pages send an Origin; robots do not
        compression=None,
        max_size=LIMITS.message_bytes,
        max_queue=1,  # the rest waits in the robot's own buffers
        ping_interval=ping_s,
        ping_timeout=ping_s,
        open_timeout=open_timeout_s,
        close_timeout=5.0,
        server_header=None,
    )


async def run(service: Service, host: str, port: int, *, api_key: str | None = None) -> None:
    """Serve until SIGINT or SIGTERM: listen at once, say healthy once warm, refuse what is unfinished at the end.

    Raises what the warm-up raised, and RuntimeError some seconds after the device or the worker failed for good:
    whoever started this process starts it again.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def end() -> None:
        stop.set()
        for number in numbers:  # a second one ends the process as it is
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, end)
    server = await open_server(service, host, port, api_key=api_key)
    working = asyncio.create_task(_work(service, f"ws://{host}:{port}"))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        stopping.cancel()
        working.cancel()
        await service.stop()
        await asyncio.sleep(0.1)  # the refusals leave before the connections close
        server.close()
        await server.wait_closed()


async def _work(service: Service, where: str) -> NoReturn:
    """Warm up, then wait for a failure and raise it."""
    await service.start()
    LOG.info("healthy: %s, checkpoint %s", where, service.metadata["checkpoint"])
    while service.health != "failed":
        await asyncio.sleep(LOOK_S)
    LOG.error("failed: no later request can succeed; this process ends in %.0f s", FAILED_S)
    await asyncio.sleep(FAILED_S)
    raise RuntimeError("the policy failed for good (the log above says how): start the server again.")


def _door(service: Service, api_key: str | None, connection: ServerConnection, request: Request) -> Response | None:
    """Who may come in: a response refuses or answers plain HTTP, None lets a robot in."""
    path = request.path.partition("?")[0]
    if path == "/healthz":
        is_well = service.health == "ok"
        status = HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE
        return connection.respond(status, "OK\n" if is_well else f"{service.health}\n")
    if api_key is not None and not knows_key(request.headers.get_all("Authorization"), api_key):
        return connection.respond(HTTPStatus.UNAUTHORIZED, "send the header Authorization: Api-Key KEY\n")
    if path == "/metrics":
        return connection.respond(HTTPStatus.OK, service.metrics.text())
    if path != "/":
        return connection.respond(HTTPStatus.NOT_FOUND, "robots connect to /; see /healthz, /metrics\n")
    if service.health != "ok":
        return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"{service.health}: try again\n")
    if service.worker.robots >= service.config.max_connections:
        return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections: try again later\n")
    return None
