"""One recorded episode: a scripted expert that does the task, or a hand that wanders.

Exploration: in bursts, smooth Gaussian noise is added to the displacement that is *executed*; what is *stored* as
the action is what the expert wanted to do from there. So the data show how to come back from a mistake.

Wandering: the hand goes anywhere, and now and then follows the expert for a while. An expert's actions follow from
picture and instruction; only where they do not can a model learn what actions do. Wandering is no demonstration (its
``success`` is False).
"""

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float

from xwam.data.episodes import Episode
from xwam.records import Observation
from xwam.robot.layout import used_slices
from xwam.sim.env import ExpertEnv

STEPS_AFTER_SUCCESS = 12  # actions recorded after success, so that clips have a real future
DEMONSTRATED_AFTER_SUCCESS = 4  # of them; later ones some experts spend going to and fro
MIN_STEPS = 40  # actions per episode
NOISE_PERSISTENCE = 0.8  # of the noise of one action in the next
BURST_STARTS, BURST_STOPS = 0.08, 0.12  # chance per action that a burst of noise begins or ends
CLEAN_SHARE = 0.25  # of the episodes have no noise at all
WANDER_STEPS = 60  # actions of a wandering episode
WANDER_HOLDS = (4, 20)  # so many actions go to one place, at least and at most
EXPERT_SHARE = 0.3  # of the holds follow the expert, so that things are touched


def record_episode(env: ExpertEnv, seed: int, noise: float = 0.0) -> Episode | None:
    """Let the expert do the task once and some actions more; None when it does not succeed in ``env.max_steps``.

    ``noise`` disturbs hands that are moved by displacements.
    """
    env.reset(seed)
    moves = [np.r_[move] for _, move in used_slices(env.layout.action, "delta_position")]
    where = np.concatenate([np.zeros(0, int), *moves])  # joints are left alone
    disturbance = smooth_noise(np.random.default_rng([seed, 2]), noise * env.max_delta_m, len(where))
    rows, wanted, executed, success_at = [], [], [], None
    while success_at is None or len(rows) < max(success_at + STEPS_AFTER_SUCCESS, MIN_STEPS):
        if success_at is None and len(rows) == env.max_steps:
            return None
        rows.append(env.observe())
        wanted.append(env.expert_action())
        action = wanted[-1].copy()
        action[where] = (action[where] + next(disturbance)).clip(-env.max_delta_m, env.max_delta_m)
        executed.append(action)
        if env.step(action) and success_at is None:
            success_at = len(rows)
    demonstrated = np.arange(len(rows)) < success_at + DEMONSTRATED_AFTER_SUCCESS
    return _episode(env, seed, rows, wanted, executed, demonstrated)


def record_wandering(env: ExpertEnv, seed: int) -> Episode:
    """Let the hand wander over one placement of the task for WANDER_STEPS actions: no demonstration, but a world."""
    env.reset(seed)
    actions = wandering(np.random.default_rng([seed, 3, zlib.crc32(env.task.encode())]), env)
    rows, played = [], []
    for _ in range(WANDER_STEPS):
        rows.append(env.observe())
        played.append(next(actions))
        env.step(played[-1])
    return _episode(env, seed, rows, played, played, np.zeros(len(rows), dtype=bool))


def check_can_wander(env: ExpertEnv) -> None:
    """Refuse a robot whose hands are not moved by displacements. Raises ValueError."""
    moves, hands = used_slices(env.layout.action, "delta_position"), env.layout.hands
    if not len(moves) == len(hands) == len(env.workspaces) > 0:
        raise ValueError(
            f"wander=True: {env.layout.name!r} moves {len(moves)} hands by displacements, its state has {len(hands)} "
            f"positions of hands, and it names {len(env.workspaces)} workspaces: one of each per hand is needed; "
            "record demonstrations."
        )


def wandering(rng: np.random.Generator, env: ExpertEnv) -> Iterator[Float[np.ndarray, " Da"]]:
    """Actions without end: every hand towards one random place after another; some of them are the expert's."""
    parts = env.layout.action
    moves = used_slices(parts, "delta_position")
    grippers = [where for _, where in used_slices(parts, "gripper_command")]
    grippers += [slice(0)] * (len(moves) - len(grippers))  # no slots: hands without one
    turns = used_slices(parts, "delta_rotation") if env.max_turn_rad else []
    follows_expert = False
    while True:
        action, ways = np.zeros(env.layout.action_width, dtype=np.float32), []
        for workspace, gripper in zip(env.workspaces, grippers, strict=True):
            ways.append((rng.uniform(*workspace), env.max_delta_m * rng.uniform()))
            action[gripper] = rng.choice([-1.0, 1.0])
        for _, turn in turns:  # about the vertical
            action[turn] = [0, 0, env.max_turn_rad * rng.uniform(-1, 1)]
        for _ in range(rng.integers(WANDER_HOLDS[0], WANDER_HOLDS[1] + 1)):
            state = env.state()
            for (place, speed), (_, hand), (_, move) in zip(ways, env.layout.hands, moves, strict=True):
                way = place - state[hand]
                action[move] = way * min(1.0, speed / max(np.abs(way).max(), 1e-9))
            yield env.expert_action() if follows_expert else action.copy()
        follows_expert = rng.uniform() < EXPERT_SHARE


def smooth_noise(rng: np.random.Generator, scale_m: float, size: int = 3) -> Iterator[Float[np.ndarray, " size"]]:
    """Displacements in metres, without end: bursts of an AR(1) process of at most this standard deviation."""
    strength = scale_m * rng.uniform() if rng.uniform() >= CLEAN_SHARE else 0.0
    is_on, value = False, np.zeros(size)
    fresh = np.sqrt(1 - NOISE_PERSISTENCE**2)  # keeps the standard deviation at 1
    while True:
        is_on = rng.uniform() >= BURST_STOPS if is_on else rng.uniform() < BURST_STARTS
        value = NOISE_PERSISTENCE * value + fresh * rng.normal(size=size)
        yield strength * value * is_on


def _episode(
    env: ExpertEnv,
    seed: int,
    rows: Sequence[Observation],
    wanted: Sequence[np.ndarray],
    executed: Sequence[np.ndarray],
    demonstrated: Bool[np.ndarray, " N"],
) -> Episode:
    """What was seen and done, as one record."""
    return Episode(
        instruction=env.instruction,
        task=env.task,
        seed=seed,
        success=bool(demonstrated.any()),
        state=np.stack([row.state for row in rows]),
        action=np.stack(wanted),
        executed_action=np.stack(executed),
        demonstrated=demonstrated,
        video={name: np.stack([row.images[name] for row in rows]) for name in rows[0].images},
        depth={name: np.stack([row.depth[name] for row in rows]) for name in rows[0].depth},
    )
