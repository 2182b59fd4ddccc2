"""One policy for many robots, whatever carries the messages: warm up, answer, end.

Each connection is a conversation of its own (conversation.py). All of them run in one asyncio loop; the policy runs in
the worker's thread (batching.py), so a long computation never stops a keepalive.
"""

import asyncio
import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from xwam.compile import compiled, made_up_observation, warm_up
from xwam.policy import Policy, load_policy
from xwam.robot.of_checkpoint import own_robot
from xwam.robot.robot_json import RobotConfig
from xwam.serve.batching import Worker
from xwam.serve.messages import checkpoint_hash, metadata
from xwam.serve.metrics import Metrics
from xwam.serve.wire import RULES

LOG = logging.getLogger("xwam.serve")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """How much the server takes on. ``max_queue`` counts unfinished requests of all robots, worlds included."""

    max_queue: int = 32
    max_bytes: int = 512 << 20  # of the images of unfinished requests, of all robots
    max_batch: int = 8
    batch_window_ms: float = 5.0
    per_connection: int = 8  # of which one robot may have so many
    max_connections: int = 64
    send_timeout_s: float = 60.0  # a robot that does not take its answers is disconnected
    is_compiled: bool = False  # every shape is compiled before the server says healthy, none later

    def __post_init__(self) -> None:
        for name in ("max_queue", "max_bytes", "max_batch", "per_connection", "max_connections"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1.")
        if not 0 <= self.batch_window_ms <= 1000:
            raise ValueError(f"batch_window_ms={self.batch_window_ms}: must be 0..1000 (milliseconds).")

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """All up to the largest; powers of two where each is compiled: of 7 waiting robots 4, 2 and 1 are answered."""
        sizes = range(1, self.max_batch + 1)
        return tuple(size for size in sizes if not self.is_compiled or size & (size - 1) == 0)


class Service:
    """A policy that is asked by many."""

    def __init__(
        self, policy: Policy, config: ServeConfig, *, name: str, hash_: str, robot: RobotConfig | None = None,
        precision: str = "float32",
    ) -> None:  # fmt: skip
        """``robot``: what the numbers of a robot mean outside; robots are told so, and translate (player.py)."""
        self.policy, self.config = policy, config
        self.metrics = Metrics(RULES)
        self.worker = Worker(
            policy,
            self.metrics,
            max_queue=config.max_queue,
            batch_sizes=config.batch_sizes,
            batch_window_s=config.batch_window_ms / 1000,
            max_bytes=config.max_bytes,
        )
        limits = {"queue": config.max_queue, "per_connection": config.per_connection}
        self.metadata = metadata(policy, name=name, checkpoint_hash=hash_, robot=robot, precision=precision, **limits)
        self._health = "warming up"
        self.packing = ThreadPoolExecutor(1, "xwam-packing")  # pictures and clouds; the worker must not wait for them
        gauges = {
            "xwam_connections": ("Robots connected.", lambda: self.worker.robots),
            "xwam_queue_bytes": ("Bytes of images of requests not finished.", lambda: self.worker.num_bytes),
            "xwam_queue": ("Requests not finished.", lambda: len(self.worker)),
            "xwam_healthy": ("1 once warm.", lambda: self.health == "ok"),
        }
        self.metrics.gauges.update(gauges)

    async def start(self) -> None:
        """Answer once before anybody asks, so that the first robot does not pay for what happens only once."""
        await asyncio.wrap_future(self.worker.start(self._warm_up))
        self._health = "ok"

    @property
    def health(self) -> str:
        """``ok`` when robots may come; else why not."""
        return "failed" if self._health == "ok" and not self.worker.is_alive else self._health

    async def stop(self) -> None:
        """Refuse what is unfinished, then end."""
        self._health = "closing"
        await asyncio.to_thread(self.worker.stop)
        self.packing.shutdown(wait=False, cancel_futures=True)

    def _warm_up(self) -> None:
        """The whole way once with the world, and the largest batch of actions: memory errors show now.

        The text encoder, where there is one, is loaded too: no robot shall wait for that.
        """
        if self.policy.networks.has_text:
            self.policy.text.eval()
        max_prefix, can_steer = self.policy.config.noise.max_prefix, self.policy.networks.is_differentiable
        if self.config.is_compiled:
            with_prefix = max_prefix > 0 or can_steer
            warm = warm_up(compiled(self.policy), batch_sizes=self.config.batch_sizes, with_prefix=with_prefix)
            LOG.info("compiled %d programs in %.0f s", warm.num_programs, warm.seconds)
            return
        observation, size = made_up_observation(self.policy), max(self.config.batch_sizes)
        deque(self.policy.predict(observation, actions_only=not self.policy.has_world), maxlen=0)
        action = np.zeros((1, self.policy.layout.action_width), np.float32)
        for prefix in (None, action) if max_prefix == 0 and can_steer else (None,):  # steering takes more memory
            answers = self.policy.predict_batch(
                [observation] * size, seeds=range(size), actions_only=True, prefixes=[prefix] * size
            )
            deque(answers, maxlen=0)


def load_service(
    checkpoint: Path,
    config: ServeConfig,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    quantize: str | None = None,
    with_world: bool = True,
    robot: str | None = None,
    action_steps: int | None = None,
    video_steps: int | None = None,
) -> Service:
    """A service for a checkpoint folder, not yet warm. ``quantize``: a kind of ``xwam.quantize``, for its blocks."""
    policy = load_policy(
        checkpoint, device=device, dtype=dtype, with_world=with_world, robot=robot, action_steps=action_steps,
        video_steps=video_steps,
    )  # fmt: skip
    if quantize is not None:
        from xwam.quantize import quantized

        quantized(policy, quantize)
        if not policy.networks.is_differentiable and policy.config.noise.max_prefix == 0:
            LOG.warning("quantize=%s: real-time chunking is refused, this checkpoint needs gradients for it.", quantize)
    name, hash_ = checkpoint.resolve().name, checkpoint_hash(checkpoint)
    precision = quantize or str(dtype).removeprefix("torch.")
    return Service(policy, config, name=name, hash_=hash_, robot=own_robot(checkpoint, robot), precision=precision)
