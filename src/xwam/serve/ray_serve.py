"""The same service on Ray Serve, for more robots than one process can answer (`pip install 'xwam[ray]'`).

    serve run xwam.serve.ray_serve:build checkpoint=/models/tiny replicas=2
    serve run xwam.serve.ray_serve:build checkpoint=/models/tiny max_replicas=8 robots_per_replica=8 device=cuda

Every replica is a ``Service`` with a policy of its own. Ray's proxy gives a new connection to the less busy of two
replicas, and a connection stays with its replica: that is the session's affinity. A replica that is warming up gets
none; when one dies, its robots connect again and land on another (a session holds nothing but unfinished work).
"""

import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from xwam.config import Dtype, Quantization
from xwam.serve.conversation import converse
from xwam.serve.service import ServeConfig, Service, load_service
from xwam.serve.wire import knows_key, read_key
from xwam.strict_json import suggest

if TYPE_CHECKING:
    from ray.serve import Application  # pyright: ignore[reportMissingImports]

LOG = logging.getLogger("xwam.serve")
PROXY_MESSAGE_BYTES = 16 * 1024 * 1024  # Ray's proxy (uvicorn's default) ends a connection that sends a larger one
POLICY_VIOLATION = 1008  # of websocket's close codes


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """What ``serve run … key=value`` may say."""

    checkpoint: str
    replicas: int = 1  # with max_replicas: the fewest
    max_replicas: int = 0  # 0: always ``replicas``; else Ray adds replicas while there are more robots than wanted
    robots_per_replica: int = 8  # that autoscaling aims at
    max_connections: int = 64  # robots that one replica takes at most
    device: str = "cpu"
    gpus_per_replica: float = 1.0  # where the device is cuda; 0.5: two replicas share one
    actions_only: bool = False
    precision: str = "float32"  # or bfloat16
    compile: bool = False
    quantize: str = ""  # int8-dynamic, …: fewer bits for the blocks
    robot: str = ""  # which one, when the checkpoint learned from several
    max_batch: int = ServeConfig.max_batch
    action_steps: int = 0  # 0: the checkpoint's
    video_steps: int = 0
    api_key_file: str = ""

    def __post_init__(self) -> None:
        lowest = dict.fromkeys(("replicas", "robots_per_replica", "max_connections", "max_batch"), 1)
        for name, least in {**lowest, "action_steps": 0, "video_steps": 0}.items():
            if vars(self)[name] < least:
                raise ValueError(f"{name}={vars(self)[name]}: must be {least} or more.")
        for name, allowed in {"precision": get_args(Dtype), "quantize": ["", *get_args(Quantization)]}.items():
            if vars(self)[name] not in allowed:
                raise ValueError(f"{name}={vars(self)[name]!r}: {suggest(vars(self)[name], filter(None, allowed))}")
        if self.max_replicas and self.robots_per_replica > self.max_connections:
            raise ValueError(
                f"robots_per_replica={self.robots_per_replica}: at most max_connections={self.max_connections}, or no "
                "replica would ever be added."
            )
        if self.max_replicas and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas={self.max_replicas}: must be 0 or at least replicas={self.replicas}.")


def read_arguments(arguments: Mapping[str, Any]) -> RayConfig:
    """``key=value`` pairs (words or numbers) as settings. Raises ValueError for unknown keys and wrong values."""
    kinds = {field.name: field.type for field in fields(RayConfig)}
    unknown = [key for key in arguments if key not in kinds]
    if unknown:
        raise ValueError(f"argument {unknown[0]!r}: {suggest(unknown[0], kinds)}")
    if "checkpoint" not in arguments:
        raise ValueError("checkpoint=… is missing: name a checkpoint folder that every node can read.")
    read = {str: str, int: int, float: float, bool: _bool}
    return RayConfig(**{key: read[kinds[key]](value) for key, value in arguments.items()})


def _bool(word: Any) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if str(word).lower() not in known:
        raise ValueError(f"{word!r} is neither true nor false.")
    return known[str(word).lower()]


def service_of(config: RayConfig) -> Service:
    """The service of one replica, not yet warm."""
    service = load_service(
        Path(config.checkpoint),
        ServeConfig(max_connections=config.max_connections, max_batch=config.max_batch, is_compiled=config.compile),
        device=config.device,
        dtype=getattr(torch, config.precision),
        quantize=config.quantize or None,
        with_world=not config.actions_only,
        robot=config.robot or None,
        action_steps=config.action_steps or None,
        video_steps=config.video_steps or None,
    )
    service.metadata["limits"]["message_bytes"] = PROXY_MESSAGE_BYTES
    return service


def build(arguments: Mapping[str, Any]) -> "Application":
    """The application, as ``serve run`` and KubeRay's ``import_path`` want it."""
    try:
        from fastapi import FastAPI, Request, Response, WebSocket  # pyright: ignore[reportMissingImports]
        from ray import serve  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{error.name} is not installed: pip install ./packages/xwam-client '.[ray]', in a checkout"
        ) from error
    config = read_arguments(arguments)
    app = FastAPI(openapi_url=None)

    @serve.deployment(**_scaling(config))
    @serve.ingress(app)
    class Robots:
        async def __init__(self) -> None:
            self.service = service_of(config)
            self.service.metadata["replica"] = serve.get_replica_context().replica_id.unique_id
            self.key = read_key(Path(config.api_key_file)) if config.api_key_file else None
            await self.service.start()  # Ray sends no robots before this returns

        def check_health(self) -> None:
            if self.service.health != "ok":
                raise RuntimeError(f"service is {self.service.health}")

        async def __del__(self) -> None:
            await self.service.stop()

        @app.get("/healthz")
        async def healthz(self) -> Response:
            return Response("OK\n", media_type="text/plain")

        @app.get("/metrics")
        async def metrics(self, request: Request) -> Response:
            if not _may_enter(request.headers, self.key):
                return Response("this server needs its key\n", 401, media_type="text/plain")
            return Response(self.service.metrics.text(), media_type="text/plain")

        @app.websocket("/")
        async def answer(self, socket: WebSocket) -> None:
            if not _may_enter(socket.headers, self.key):
                await socket.close(POLICY_VIOLATION)
                return
            await socket.accept()
            await _answer(self.service, socket)

    return Robots.bind()  # pyright: ignore[reportAttributeAccessIssue] (serve.deployment made it one)


def _scaling(config: RayConfig) -> dict[str, Any]:
    """How many replicas, and what each may use."""
    on_gpu = config.device.startswith("cuda")
    options: dict[str, Any] = {
        "max_ongoing_requests": config.max_connections,
        "ray_actor_options": {"num_cpus": 1, "num_gpus": config.gpus_per_replica if on_gpu else 0},
        "graceful_shutdown_timeout_s": 10,
    }
    if not config.max_replicas:
        return {**options, "num_replicas": config.replicas}
    options["autoscaling_config"] = {
        "min_replicas": config.replicas,
        "max_replicas": config.max_replicas,
        "target_ongoing_requests": config.robots_per_replica,
    }
    return options


def _may_enter(headers: Mapping[str, str], key: str | None) -> bool:
    """As the plain server's door: web pages (they send an Origin) stay out, and whoever lacks the key."""
    return "origin" not in headers and (key is None or knows_key([headers.get("authorization", "")], key))


async def _answer(service: Service, socket: Any) -> None:
    """A conversation over an ASGI websocket."""
    from starlette.websockets import WebSocketDisconnect  # pyright: ignore[reportMissingImports]

    async def messages() -> AsyncIterator[bytes | str]:
        while True:
            event = await socket.receive()
            if event["type"] == "websocket.disconnect":
                return
            yield event["bytes"] if event.get("bytes") is not None else event["text"]

    async def send(data: bytes | str) -> None:
        await (socket.send_text(data) if isinstance(data, str) else socket.send_bytes(data))

    try:
        await converse(service, messages(), send)
    except (WebSocketDisconnect, TimeoutError, RuntimeError) as error:  # starlette: sending after the other has left
        LOG.info("connection lost: %s", error)
