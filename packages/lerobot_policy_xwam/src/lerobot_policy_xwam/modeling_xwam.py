"""The policy that LeRobot calls once per control period. It holds no weights of its own: see ``xwam.serve.player``."""

# pyright: reportMissingImports=false
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor
from xwam.records import Prediction
from xwam.serve.player import ACTION_KEY, Answers, Player, answers_of_checkpoint, answers_of_server
from xwam.serve.recorder import recorded
from xwam.serve.wire import read_key
from xwam.view.mosaic import mosaic_frames
from xwam_client.client import Client

from lerobot_policy_xwam.configuration_xwam import TRAIN, XWAMConfig

LOG = logging.getLogger(__name__)
PERIODS_MEASURED = 40  # before the rate of the loop is compared with the checkpoint's
CHUNKS = "use select_action (lerobot-rollout --inference.type=sync); --policy.play=realtime is this policy's own."


def open_answers(config: XWAMConfig, watch: Callable[[Prediction], Any] | None = None, *, row: int = 0) -> Answers:
    """Whoever the configuration names; ``watch`` sees what is imagined. ``row``: which robot's record it keeps.

    Raises FileNotFoundError, ConnectionError or ValueError that says why not.
    """
    answers = _open_answers(config, watch)
    return answers if config.record is None else recorded(answers, Path(config.record) / f"robot-{row}")


def _open_answers(config: XWAMConfig, watch: Callable[[Prediction], Any] | None) -> Answers:
    if config.server is not None:
        key = None if config.api_key_file is None else read_key(Path(config.api_key_file))
        return answers_of_server(Client(config.server, api_key=key, connect_seconds=config.timeout_s))
    assert config.checkpoint is not None, "one of the two is given"
    return answers_of_checkpoint(
        Path(config.checkpoint), device=config.device or "cpu", dtype=getattr(torch, config.precision),
        robot=config.robot, action_steps=config.action_steps, watch=watch,
    )  # fmt: skip


class XWAMPolicy(PreTrainedPolicy):
    """A Player for every robot of a batch (simulators of ``lerobot-eval``; a real robot is alone)."""

    config_class = XWAMConfig
    name = "xwam"

    def __init__(self, config: XWAMConfig, *_: Any, **__: Any) -> None:
        super().__init__(config)
        self.players: list[Player] = []
        self.last_predicted_latents: Tensor | None = None  # what lerobot-eval collects; here finished pictures
        player = self._player(0)
        check_features(config, player)
        # lerobot-eval knows the width of commands, and time stands still there; lerobot-rollout keeps time.
        self._pace = None if config.output_features else Pace(player.fps)
        width = player.action_widths[ACTION_KEY]
        LOG.info(
            "xwam: commands of %d numbers, %g times a second (lerobot-rollout: --fps=%g)", width, *[player.fps] * 2
        )

    @classmethod
    def from_pretrained(cls, pretrained_name_or_path: Any = None, *, config: Any = None, **_: Any) -> Self:
        """LeRobot's way to open a policy: the configuration alone says where the weights are."""
        return cls(config or XWAMConfig.from_pretrained(pretrained_name_or_path))

    def reset(self) -> None:
        """A new episode."""
        for player in self.players:
            player.reset()

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **_: Any) -> Tensor:
        """The commands of this control period, ``B A``, in the robot's own units."""
        if self._pace is not None:
            self._pace.tick()
        states = {key: _found(batch, key) for key in self.players[0].state_widths}
        images = {key: _found(batch, key) for key in self.players[0].image_keys.values()}
        number, task = len(next(iter({**states, **images}.values()))), batch.get("task", "")
        if number > 1 and self.config.save_predicted_video:
            raise ValueError(f"save_predicted_video with a batch of {number}: give --eval.batch_size=1.")
        words = [task] * number if isinstance(task, str) else task
        commands = []
        for row in range(number):
            columns = {key: values[row].cpu().numpy() for key, values in states.items()}
            pictures = {key: _picture(values[row]) for key, values in images.items()}
            commands.append(self._player(row).command(columns, pictures, words[row])[ACTION_KEY])
        return torch.from_numpy(np.array(commands, np.float32))

    def _player(self, row: int) -> Player:
        """That of a row. A checkpoint answers all of them; with a server each is a robot of its own."""
        config = self.config
        while len(self.players) <= row:
            is_shared = self.players and config.server is None
            watch = self._keep if config.save_predicted_video else None
            answers = self.players[0].answers if is_shared else open_answers(config, watch, row=len(self.players))
            rest = {"play": config.play, "replan_every": config.replan_every, "timeout_s": config.timeout_s}
            self.players.append(Player(answers, **rest))
        return self.players[row]

    def _keep(self, world: Prediction) -> None:
        """The imagined views up to the next observation, at the speed of the loop; as lerobot-eval joins latents."""
        player = self.players[0]
        ticks = round(player.fps / world.frame_hz)  # control periods per imagined frame
        played = player.replan_every * player.frames_per_action
        frames = np.repeat(mosaic_frames(world), ticks, axis=0)[:played]
        self.last_predicted_latents = torch.from_numpy(frames)[None, None]

    def decode_predicted_latents(self, latents: Tensor) -> np.ndarray:
        """``1 1 T H W 3`` to ``T H W 3`` bytes: they are pictures already."""
        return latents[0, 0].numpy()

    def predict_action_chunk(self, batch: dict[str, Tensor], **_: Any) -> Tensor:
        """Refused: a target depends on where the robot is when its action begins."""
        raise NotImplementedError(f"predict_action_chunk: {CHUNKS}")

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict | None]:
        """Refused: see TRAIN."""
        raise NotImplementedError(f"forward: {TRAIN}")

    def get_optim_params(self) -> dict:
        """Refused: see TRAIN."""
        raise NotImplementedError(f"get_optim_params: {TRAIN}")


class Pace:
    """Says once when the loop is called at another rate than the commands are for: LeRobot does not tell it."""

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self._at: list[float] = []

    def tick(self) -> None:
        """Once per control period."""
        if len(self._at) > PERIODS_MEASURED:
            return
        self._at.append(time.perf_counter())
        if len(self._at) > PERIODS_MEASURED:
            found = 1 / statistics.median(np.diff(self._at).tolist())
            if not 0.9 < found / self.fps < 1.1:
                LOG.warning("xwam: called %.3g times a second, made for %g: set --fps=%g.", found, self.fps, self.fps)


def check_features(config: XWAMConfig, player: Player) -> None:
    """Refuse a robot or data set that lacks a column or a camera, or whose commands have another width."""
    if set(player.action_widths) != {ACTION_KEY}:
        raise ValueError(f"action columns {sorted(player.action_widths)}: LeRobot has only {ACTION_KEY!r}.")
    given = {key: tuple(feature.shape) for key, feature in (config.input_features or {}).items()}
    wrong = [
        f"{key} (at least {width} numbers): {given.get(key, 'not there')}"
        for key, width in player.state_widths.items()
        if given and (key not in given or given[key][0] < width)
    ]
    wrong += [f"{key}: not there" for key in player.image_keys.values() if given and key not in given]
    commands = (config.output_features or {}).get(ACTION_KEY)
    if commands is not None and tuple(commands.shape) != (player.action_widths[ACTION_KEY],):
        wrong.append(f"action has shape {tuple(commands.shape)}: the policy gives {player.action_widths[ACTION_KEY]}")
    if wrong:
        raise ValueError(f"this robot is not the policy's: {'; '.join(wrong)}. Names are the data set's.")


def _found(batch: dict[str, Any], key: str) -> Tensor:
    if key not in batch:
        raise ValueError(f"{key!r} is not in the observation: {', '.join(sorted(batch))}.")
    return batch[key]


def _picture(image: Tensor) -> np.ndarray:
    """``3 H W`` in [0, 1] to ``H W 3`` bytes: what the camera gave."""
    return (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
