"""LIBERO: 130 tasks for one Panda, each with 50 fixed beginnings (``pip install hf-libero``, or from its repository).

An episode begins at one of the task's stored states and ten control periods later, when all that fell has come to
rest. What the model is told and what it commands are what LIBERO's own HDF5 files hold (``robots/libero.json``): poses
in the world's axes, targets through the controller's changes.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from xwam_client.agreement import MismatchError

from xwam_benchmarks.arm import Arm
from xwam_benchmarks.slots import Axes, names_of_cameras
from xwam_benchmarks.task import Simulated, Task

MAX_STEPS = {"libero_spatial": 280, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
OTHER_NAMES = {"wrist": "robot0_eye_in_hand"}  # of robots/libero.json
SETTLING = 10  # control periods
HZ = 20.0
AT_REST = np.array([0.0] * 6 + [-1.0])  # open gripper


def tasks_of(suite: str) -> tuple[str, ...]:
    """The names of a suite's tasks, in its order. Raises ValueError for a suite that is none."""
    return tuple(_benchmark(suite).get_task_names())


def open_task(
    metadata: Mapping[str, Any], task: str, *, suite: str, size_px: int, cameras: Mapping[str, str],
    is_mirrored: bool = False, action_hz: float = HZ,
) -> Task:  # fmt: skip
    """One task for a server. Raises MismatchError when that is not made for this robot or these cameras.

    ``is_mirrored``: pictures as LeRobot's LIBERO data sets hold them, for models that learned from those as they are.
    ``action_hz``: what the model's data call the simulator's 20 control periods a second (some say 10).
    """
    from libero.libero import get_libero_path
    from libero.libero.envs import OffScreenRenderEnv

    if (metadata.get("robot") or {}).get("frames_per_action", 1) != 1:
        raise MismatchError(
            "its robot.json has frames_per_action above 1: LIBERO's controller takes every frame's own."
        )
    arm = Arm(metadata, Axes(metadata), position_key="robot0_eef_pos", quat_key="robot0_eef_quat")
    known = ("agentview", "robot0_eye_in_hand", "frontview", "birdview", "sideview")
    names = names_of_cameras(metadata, known, OTHER_NAMES, cameras)
    benchmark = _benchmark(suite)
    number = benchmark.get_task_names().index(task)
    found = benchmark.get_task(number)
    env = OffScreenRenderEnv(
        bddl_file_name=str(Path(get_libero_path("bddl_files")) / found.problem_folder / found.bddl_file),
        camera_names=sorted(set(names.values())), camera_heights=size_px, camera_widths=size_px, control_freq=HZ,
        ignore_done=True,
    )  # fmt: skip
    states = benchmark.get_task_init_states(number)
    simulated = simulated_libero(env, states, found.language)
    max_steps = MAX_STEPS[suite]
    return Task(simulated, arm, names, name=task, action_hz=action_hz, max_steps=max_steps, is_mirrored=is_mirrored)


def simulated_libero(env: Any, beginnings: Sequence[Any], instruction: str) -> Simulated:
    """LIBERO's own environment, from these stored states on."""

    def reset(seed: int) -> Mapping[str, Any]:
        number = seed % len(beginnings)
        # LIBERO adds to this list at every reset, and draws for all that is in it: a number would not be an episode.
        getattr(env.env, "object_property_initializers", []).clear()
        env.seed(number)
        env.reset()
        observed = env.set_init_state(np.asarray(beginnings[number]))
        for _ in range(SETTLING):
            observed = env.step(AT_REST)[0]
        return observed

    return Simulated(
        reset=reset,
        step=lambda hand, gripper: env.step(np.append(hand, gripper))[0],
        largest=lambda: np.asarray(env.robots[0].controller.output_max),
        is_solved=env.check_success,
        instruction=lambda: instruction,
        close=env.close,
    )


def _benchmark(suite: str) -> Any:
    if suite not in MAX_STEPS:
        raise ValueError(f"suite={suite!r}: must be one of {', '.join(MAX_STEPS)}.")
    try:
        from libero.libero.benchmark import get_benchmark
    except EOFError as error:
        raise ValueError(
            "LIBERO asks at its first import where its data shall lie, and nobody answered: run "
            "`python -c 'import libero.libero'` once."
        ) from error
    return get_benchmark(suite)()
