"""``--policy.type=xwam``: a checkpoint in this process or a server, and how its chunks are played."""

# pyright: reportMissingImports=false
import logging
import re
from dataclasses import dataclass, field

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode
from xwam_client.chunks import PLAYS

LOG = logging.getLogger(__name__)
ADDRESS = r"wss?://(\[[^\]/]+\]|[^/:\[\]]+)(:\d+)?(/.*)?"  # a name, or numbers of IPv6 in brackets
TRAIN = "train with `xwam train` (docs/extend.md); LeRobot only plays what it made."


@PreTrainedConfig.register_subclass("xwam")
@dataclass
class XWAMConfig(PreTrainedConfig):
    """Either ``checkpoint`` or ``server``; everything else has an answer in the checkpoint."""

    checkpoint: str | None = None  # a folder; its networks run on ``device``
    server: str | None = None  # an address of `xwam serve`, as ws://gpu-box:8000
    api_key_file: str | None = None  # of that server
    robot: str | None = None  # which one, when the checkpoint learned from several
    play: str = "wait"  # or overlap, realtime: the robot plays on while the next chunk is computed
    replan_every: int | None = None  # actions from one observation to the next; None: half of a chunk
    action_steps: int | None = None  # denoising steps, instead of the checkpoint's
    precision: str = "float32"  # or bfloat16
    timeout_s: float = 10.0  # how long the robot may stand still for want of an answer
    record: str | None = None  # a folder: keep what was seen, asked and told (xwam.serve.recorder)
    save_predicted_video: bool = False  # of lerobot-eval: imagine every chunk's world too, beside the real video
    normalization_mapping: dict[str, NormalizationMode] = field(default_factory=dict)  # the checkpoint has its own

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.device is not None and self.device.startswith("mps"):  # which LeRobot takes by itself on a Mac
            if self.server is None:
                LOG.warning(
                    "policy.device=%r: has no float64, in which noise levels are kept: cpu is used.", self.device
                )
            self.device = "cpu"
        if (self.checkpoint is None) == (self.server is None):
            raise ValueError(
                f"policy.checkpoint={self.checkpoint!r}, policy.server={self.server!r}: give one of them, a folder or "
                "an address."
            )
        if self.server is not None:
            if re.fullmatch(ADDRESS, self.server) is None:
                raise ValueError(
                    f"policy.server={self.server!r}: must be an address as ws://gpu-box:8000 or ws://[::1]:8000."
                )
            for name in ("robot", "action_steps", "precision", "save_predicted_video"):
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    raise ValueError(f"policy.{name}={getattr(self, name)!r}: that is the server's own; leave it out.")
        if self.play not in PLAYS:
            raise ValueError(f"policy.play={self.play!r}: must be one of {', '.join(PLAYS)}.")
        if self.replan_every is not None and self.replan_every < 1:
            raise ValueError(f"policy.replan_every={self.replan_every}: must be 1 or more.")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"policy.precision={self.precision!r}: must be float32 or bfloat16.")

    @property
    def observation_delta_indices(self) -> list | None:
        """Only the present is looked at."""
        return None

    @property
    def action_delta_indices(self) -> list | None:
        """LeRobot's loader has no part in training."""
        return None

    @property
    def reward_delta_indices(self) -> list | None:
        """There are no rewards."""
        return None

    def get_optimizer_preset(self) -> None:
        """Refused: see TRAIN."""
        raise NotImplementedError(f"lerobot-train: {TRAIN}")

    def get_scheduler_preset(self) -> None:
        """Refused: see TRAIN."""
        raise NotImplementedError(f"lerobot-train: {TRAIN}")

    def validate_features(self) -> None:
        """Columns and cameras are compared with the checkpoint's when it is loaded (modeling_xwam.py)."""
