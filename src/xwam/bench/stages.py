"""The stages of a request, measured one by one and as a whole."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch

import xwam
from xwam import encode
from xwam.bench.clock import Sample, Timing, matrix_rate, measure, peak_memory, sample
from xwam.bench.operations import Shape, count_operations, inputs_of, product_shapes
from xwam.bench.subject import INSTRUCTION, random_observation
from xwam.compile import WarmUp, compiled, warm_up
from xwam.model.prompt import PromptMemory
from xwam.policy import Policy
from xwam.records import Prediction
from xwam.view.points import fuse

MAX_SHAPES = 6  # of matrix products whose rate is measured


class Stage(NamedTuple):
    """One line of the table; ``operations`` is None where the work is not arithmetic of the networks."""

    name: str
    timing: Timing
    operations: int | None


class Plan(NamedTuple):
    """How long to measure."""

    repeats: int
    seconds_per_stage: float
    with_world: bool
    is_compiled: bool
    seed: int


class Bench(NamedTuple):
    """All that was measured in one run."""

    subject: str
    stages: list[Stage]
    matrix_rates: dict[Shape, float]  # operations per second of work
    warm_up: WarmUp | None
    first_request: float  # wall-clock seconds, instruction unknown, nothing warm
    peak_memory: int
    facts: dict[str, Any]

    @property
    def matrix_rate(self) -> float:
        """The best rate over the shapes that occur."""
        return max(self.matrix_rates.values())

    def share(self, stage: Stage) -> float | None:
        """The stage's rate as a share of the machine's own."""
        return None if stage.operations is None else stage.operations / stage.timing.work / self.matrix_rate


def run_bench(subject: str, policy: Policy, plan: Plan) -> Bench:
    """Measure a policy, its first request before anything else has run.

    The rate of matrix products is taken before and after the stages, the better one counts.
    """
    device, dtype = policy.device, next(policy.networks.transformer.parameters()).dtype
    shapes = product_shapes(policy.config)[:MAX_SHAPES]
    observation = random_observation(policy, 0)
    first = time.perf_counter()
    list(policy.predict(observation, seed=plan.seed, actions_only=True))
    first = time.perf_counter() - first
    before = matrix_rate(shapes, device, dtype)
    warm = warm_up(compiled(policy)) if plan.is_compiled else None
    stages = measure_stages(policy, plan)
    after = matrix_rate(shapes, device, dtype)
    return Bench(
        subject=subject,
        stages=stages,
        matrix_rates={shape: max(before[shape], after[shape]) for shape in shapes},
        warm_up=warm,
        first_request=first,
        peak_memory=peak_memory(device),
        facts=facts(policy, plan, dtype),
    )


@torch.no_grad()
def measure_stages(policy: Policy, plan: Plan) -> list[Stage]:
    """Every stage of the table, each once untimed first."""
    operations = count_operations(policy.config)
    model, steps = policy.networks.transformer, policy.config.denoise
    observation = random_observation(policy, 0)
    inputs = inputs_of(policy.config, 1, policy.device)
    prompt = PromptMemory().prepare(model, [INSTRUCTION], policy.encode_prompts)
    context = policy.encode_prompts([INSTRUCTION])

    def encode_images() -> None:
        view_names, clip = policy.config.view_names, policy.config.clip
        images, _ = encode.encode_observation(observation, view_names, clip, policy.normalizer)
        encode.encode_views(policy.networks.vae.encode, images[None].to(policy.device))

    def timed(name: str, function: Callable[[], Any], count: int | None) -> Stage:
        function()
        return Stage(name, measure(function, policy.device, repeats=plan.repeats, max_seconds=limit), count)

    limit = plan.seconds_per_stage
    stages = [
        timed("image encode", encode_images, operations.image_encode),
        timed("text encode (once per instruction)", lambda: policy.text.encode([INSTRUCTION]), operations.text),
        timed(
            "prompt keys, values (once per instruction)",
            lambda: PromptMemory().prepare(model, [INSTRUCTION], lambda texts: context),
            operations.prompt,
        ),
        timed("one denoising step", lambda: model(*inputs, prompt), operations.step),
    ]
    if plan.with_world and model.config.has_depth:
        stages.append(
            timed("one step with depth", lambda: model(*inputs, prompt, depth=True), operations.step_with_depth)
        )
    actions = lambda: list(policy.predict(observation, seed=plan.seed, actions_only=True))  # noqa: E731
    stages.append(timed("actions (observation to actions)", actions, operations.actions(steps)))
    if plan.with_world:
        stages += _world_stages(policy, plan, operations.world(steps), operations.decode)
    return stages


def _world_stages(policy: Policy, plan: Plan, world: int, decode: int) -> list[Stage]:
    """The rest of full requests."""
    _world_samples(policy, plan.seed)  # untimed
    requests: list[dict[str, Sample]] = []
    began = time.perf_counter()
    while not requests or (len(requests) < plan.repeats and time.perf_counter() - began < plan.seconds_per_stage):
        requests.append(_world_samples(policy, plan.seed))
    counts = {"world (after the actions)": world, "decode": decode}
    return [Stage(name, Timing(tuple(request[name] for request in requests)), counts.get(name)) for name in requests[0]]


def _world_samples(policy: Policy, seed: int) -> dict[str, Sample]:
    """What follows the actions in one request: each event is waited for, so its stages share it."""
    events = policy.predict(random_observation(policy, 0), seed=seed)
    next(events)
    answers: list[Prediction] = []
    later = sample(lambda: answers.append(next(events)), policy.device)
    answer = answers[0]
    spent = answer.seconds
    share = spent["decode"] / (spent["decode"] + spent["world"])
    samples = {
        "world (after the actions)": later._replace(wall=spent["world"], work=later.work * (1 - share)),
        "decode": later._replace(wall=spent["decode"], work=later.work * share),
    }
    if answer.depth is None:  # a model without a depth branch
        return samples
    cloud = replace(answer, depth=answer.depth.clip(0.5, 2.0))  # random weights see nothing: give them a depth
    fused = sample(lambda: fuse(cloud, policy.layout, 1), torch.device("cpu"))
    return samples | {"point cloud, one time step": fused}


def facts(policy: Policy, plan: Plan, dtype: torch.dtype) -> dict[str, Any]:
    """What a reader needs to repeat the run or to doubt it."""
    on_gpu = policy.device.type == "cuda"
    return {
        "preset": policy.config.name,
        "steps": f"{policy.config.denoise.num_action_steps} of {policy.config.denoise.num_video_steps}",
        "device": torch.cuda.get_device_name(policy.device) if on_gpu else platform.processor() or platform.machine(),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "compiled": plan.is_compiled,
        "load": round(os.getloadavg()[0], 1),
        "seed": plan.seed,
        "versions": {"xwam": xwam.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
