"""Verbs about data sets: collect, stats, annotate."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from xwam.config import Simulator


def collect(
    simulator: Annotated[Simulator, Positional] = "metaworld",
    tasks: tuple[str, ...] = (),
    episodes: int = 50,
    out: Path = Path("runs/data"),
    seed: int | None = None,
    noise: float = 0.3,
    wander: bool = False,
    processes: int = 2,
    size_px: int = 128,
    action_hz: float | None = None,
) -> None:
    """Record scripted experts as a LeRobot v3 data set. Interrupt and repeat at will: it continues.

    Args:
        simulator: metaworld, or robosuite (Lift, Stack; TwoArmLift, which needs a data set of its own).
        tasks: names of tasks; by default one.
        episodes: episodes per task in the end.
        out: folder of the data set.
        seed: first placement; by default 0, with wander 80,000 (scenes that no demonstration shows). Every episode
            takes the next one, all below 100,000.
        noise: how strongly the played actions are disturbed; stored are both, the expert's clean action and the
            played one.
        wander: the hand goes anywhere instead: this teaches what actions do, and not how to act. A data set of its own.
        processes: how many simulators at the same time.
        size_px: height and width of the images.
        action_hz: actions per second, 20 by default; metaworld can also be recorded with 80, 40, 16, 10, 8 or 5, to
            be mixed with other data of that rate.
    """
    from xwam.sim.collect import Recording
    from xwam.sim.collect import collect as run
    from xwam.sim.simulators import simulator_named

    tasks = tasks or (simulator_named(simulator).first_task,)
    recording = Recording(
        simulator=simulator, noise=noise, wander=wander, width_px=size_px, height_px=size_px, action_hz=action_hz
    )
    run(out, tasks, episodes, recording, seed=seed, num_workers=processes)


def annotate(
    what: Annotated[Literal["depth"], Positional],
    data: Annotated[Path, Positional],
    teacher: Path,
    robot: Path | None = None,
    cameras: tuple[str, ...] = (),
    rebuild: bool = False,
    device: str = "cpu",
) -> None:
    """Add depth to a data set, guessed by a depth model and scaled to whatever was measured. Repeat to continue.

    The data set's own files stay as they are; depth and where it comes from lie beside them, in ``depth/``.

    Args:
        what: depth.
        data: a LeRobot data set, or HDF5 files.
        teacher: folder of a depth model of transformers (DepthAnything, DepthPro, …).
        robot: the robot.json that says what the data set's numbers mean; our own need none.
        cameras: names; all that have no measured depth by default.
        rebuild: replace the depth that another teacher added.
        device: cpu, cuda, …
    """
    from xwam.data.opening import open_recorded
    from xwam.model.depth_teacher import MonocularDepth
    from xwam.robot.robot_json import load_robot
    from xwam.train.annotate import annotate_depth, teacher_hash

    mapping = None if robot is None else load_robot(robot).frame_by_frame  # every frame gets its depth
    episodes = open_recorded(data, robot=mapping)
    made = annotate_depth(
        episodes,
        MonocularDepth(teacher, device=device),
        weights=teacher_hash(teacher),
        cameras=cameras,
        rebuild=rebuild,
    )
    print(f"{made} episodes got depth: {episodes.annotated.folder}")


def stats(
    data: Annotated[Path, Positional], out: Path | None = None, processes: int = 2, robot: Path | None = None
) -> None:
    """Derive the normaliser's statistics from a data set, as training does: from the episodes that are not held out.

    Args:
        data: a data set (LeRobot's format, HDF5 files, or a published X-WAM one).
        out: file to write; by default meta/normalizer.json in the data set.
        processes: how many read the data at the same time.
        robot: the robot.json that says what the data set's numbers mean; our own need none.
    """
    from xwam.data.clips import split_episodes
    from xwam.data.opening import open_data
    from xwam.data.stats import normalizer_from
    from xwam.files import folder_of
    from xwam.robot.robot_json import load_robot

    episodes = open_data(data, robot=None if robot is None else load_robot(robot))
    training, _ = split_episodes(episodes.num_episodes)
    normalizer = normalizer_from(episodes, only=[training], num_processes=processes, progress=True)
    path = out or folder_of(data) / "meta" / "normalizer.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    normalizer.save(path)
    print(f"{path} (fingerprint {normalizer.fingerprint()})")
