"""What a person chooses for one run besides the preset; light enough for the command line."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from tyro.conf import FlagCreatePairsOff

from xwam.config import SPACE_STRIDE, Config, Simulator

Precision = Literal["auto", "float32", "bfloat16"]
OptimizerName = Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "muon"]
LESS_MEMORY = (
    "the GPU's memory is full. `xwam train … --plan` says what training takes; less: --recompute, --accumulate 4, "
    "--lora-rank 16, --optimizer adamw_8bit, --validate-every 0; serving: --precision bfloat16, --max-batch 1, "
    "--quantize int8-weights, --actions-only, known prompts (policy.save_prompts) without the folder text/; "
    "evaluate and imagine: --precision bfloat16."
)


def memory_advice(error: BaseException) -> str | None:
    """What takes less memory, where an error says that a GPU has no more; None for every other error."""
    return LESS_MEMORY if type(error).__name__ == "OutOfMemoryError" else None  # torch's, which is not imported here


def _check_least(values: Mapping[str, Any], **least: int) -> None:
    """Refuse a number, where it is given, below its least."""
    for name, bound in least.items():
        if name in values and values[name] < bound:
            raise ValueError(f"{name}={values[name]}: must be {bound} or more.")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a run is fitted into the machines at hand: memory and speed. What is learned stands in TrainConfig.

    Only ``lora_rank``, ``precision`` and the optimisers besides adamw change the numbers beyond rounding.
    """

    precision: Precision = "auto"
    """Of matrix products; where a CPU has bfloat16, a step of tiny is about 1.4 times as fast with it."""
    accumulate: int = 1
    """Micro-batches that each process cuts its share into: less memory, the same numbers."""
    recompute: bool = False
    """Compute activations again on the way back: less memory, a third more work, the same numbers."""
    optimizer: OptimizerName = "adamw"
    """adamw_8bit keeps its moments in 8 bits; the paged one moves them to main memory when a GPU is full. muon needs
    fewer samples, for a somewhat dearer step."""
    lora_rank: int = 0
    """Above 0, attention and ffn learn products of this rank only; needs --start."""
    shards: int = 1
    """Processes that share one copy of weights, gradients and optimiser; 0: all of them."""

    def __post_init__(self) -> None:
        _check_least(vars(self), accumulate=1, lora_rank=0, shards=0)
        if self.optimizer == "muon" and self.shards != 1:
            raise ValueError(f"optimizer='muon', shards={self.shards}: Muon needs whole matrices; use --shards 1.")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What the data sets of a run mean, and how they are mixed and encoded."""

    robot: tuple[str, ...] = ()
    """What their numbers mean: one robot.json for all, or one for each ("own" for our own, which need none)."""
    weights: tuple[float, ...] = ()
    """Shares of several data sets; by default as many samples as each has clips."""
    cache_processes: int = 1
    """How many processes encode clips; the same command elsewhere on the same folder helps too."""
    every: int = 4
    """A clip starts at every n-th step of an episode."""
    hold: bool = False
    """Keep all latents in the training device's memory: a small model on a GPU is faster than files can be read."""
    variants: int = 1
    """Random crops and colourings of each clip."""
    train_on_all: bool = False
    """Hold no episode out: for few demonstrations. Then nothing is validated, and `evaluate --data` of this data says
    how well it is remembered."""
    statistics: Literal["data", "start"] = "data"
    """What numbers are divided by: measured on these data sets, or those of the --start checkpoint, whose outputs then
    keep their meaning (same robot, few or narrow demonstrations)."""

    def __post_init__(self) -> None:
        _check_least(vars(self), cache_processes=1, every=1, variants=0)


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Numbers of the recipe that are not the preset's."""

    steps: int | None = None
    """Instead of the preset's number of steps."""
    warmup_steps: int | None = None
    """Instead of the preset's: steps in which the learning rate rises, at most a quarter of the run."""
    batch_size: int | None = None
    """Instead of the preset's; of all processes together."""
    learning_rate: float | None = None
    """Instead of the preset's; LoRA wants about ten times that of full training."""
    action_loss_weight: float | None = None
    """Instead of the preset's."""
    clean_action_ratio: float | None = None
    """Instead of the preset's: share of samples with clean actions, which teach the video alone."""
    max_prefix: int | None = None
    """Instead of the preset's: at most so many leading actions are given, for real-time chunking."""
    validate_every: int | None = None
    """Instead of the preset's; 0 never."""
    save_every: int | None = None
    """Instead of the preset's."""
    keep_every: int | None = None
    """Checkpoints of steps that are multiples of it stay; without it only the two newest do, and the one that did best
    with --evaluate-tasks. The last one is not always the best one on a robot."""
    compile: FlagCreatePairsOff[bool] = True
    """do not compile the blocks: no compiler is needed, a step of tiny takes a quarter longer."""

    def given(self) -> dict[str, Any]:
        """What is given, by the names of TrainConfig and NoiseConfig."""
        names = {"steps": "num_steps", "warmup_steps": "num_warmup_steps"}
        return {names.get(name, name): x for name, x in vars(self).items() if x != vars(Changes)[name]}


@dataclass(frozen=True, kw_only=True)
class VaeChanges:
    """Numbers of an autoencoder's recipe."""

    steps: int = 5200
    """training steps."""
    image_steps: int = 1200
    """The first steps, of a new autoencoder, see single pictures only."""
    learning_rate: float = 4e-3
    """the highest learning rate; take a lower one, such as 1e-3, to go on from finished weights."""
    batch_factor: int = 1
    """Times as many clips per step; a GPU wants about 8."""
    crop_px: int | None = None
    """Side of the squares cut from the pictures, 64 and 128 by default; a GPU has time for whole ones."""

    def __post_init__(self) -> None:
        _check_least(vars(self), steps=1, image_steps=0, batch_factor=1)
        if self.crop_px is not None and (self.crop_px < SPACE_STRIDE or self.crop_px % SPACE_STRIDE):
            raise ValueError(f"crop_px={self.crop_px}: must be a multiple of {SPACE_STRIDE}, at least that.")


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """``config`` with some fields of TrainConfig and NoiseConfig set anew; modes that these never draw are left out.

    Raises ValueError for counts below 1; ``validate_every`` and ``num_warmup_steps`` may be 0.
    """
    _check_least(changes, num_steps=1, num_warmup_steps=0, batch_size=1, save_every=1, log_every=1, keep_every=0)
    of_noise = {name: x for name, x in changes.items() if name in vars(config.noise)}
    of_train = {name: x for name, x in changes.items() if name not in of_noise}
    noise = replace(config.noise, **of_noise)
    has_clean_actions = noise.draw == "decoupled" or (noise.draw == "asynchronous" and noise.clean_action_ratio > 0)
    modes = tuple(mode for mode in config.modes if has_clean_actions or mode != "forward_dynamics")
    return replace(config, noise=noise, train=replace(config.train, **of_train), modes=modes)


@dataclass(frozen=True, kw_only=True)
class Watch:
    """How a run is watched while it learns."""

    evaluate_tasks: tuple[str, ...] = ()
    """Tasks to play with the averaged weights whenever validation is due."""
    evaluate_simulator: Simulator = "metaworld"
    """Whose tasks they are."""
    evaluate_episodes: int = 4
    """with --evaluate-tasks: episodes per task."""
    evaluate_max_steps: int | None = None
    """with --evaluate-tasks: actions per episode; by default the simulator's own."""
    wandb: str | None = None
    """A Weights & Biases project to log to as well."""

    def __post_init__(self) -> None:
        _check_least(vars(self), evaluate_episodes=1)
        if self.evaluate_max_steps is not None:
            _check_least(vars(self), evaluate_max_steps=1)
