"""Verbs about data sets: collect, stats."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional


def collect(
    simulator: Annotated[Literal["metaworld"], Positional] = "metaworld",
    tasks: tuple[str, ...] = ("button-press-topdown-v3",),
    episodes: int = 50,
    out: Path = Path("runs/data"),
    seed: int = 0,
    noise: float = 0.3,
    workers: int = 2,
    size_px: int = 128,
) -> None:
    """Record scripted experts as a LeRobot v3 data set. Interrupt and repeat at will: it continues.

    Args:
        simulator: metaworld.
        tasks: names of tasks.
        episodes: episodes per task in the end.
        out: folder of the data set.
        seed: first placement.
        noise: how strongly executed actions are disturbed (the clean action is what is stored).
        workers: processes.
        size_px: height and width of the images.
    """
    from xwam.sim.collect import collect as run

    run(out, tasks, episodes, seed=seed, noise=noise, num_workers=workers, width_px=size_px, height_px=size_px)


def stats(data: Annotated[Path, Positional], out: Path | None = None, processes: int = 2) -> None:
    """Derive the normaliser's statistics from a data set, as training does: from the episodes that are not held out.

    Args:
        data: a LeRobot data set.
        out: file to write; by default meta/normalizer.json in the data set.
        processes: how many read the data at the same time.
    """
    from xwam.data.clips import split_episodes
    from xwam.data.lerobot import open_lerobot
    from xwam.data.stats import normalizer_from

    episodes = open_lerobot(data)
    training, _ = split_episodes(episodes.num_episodes)
    normalizer = normalizer_from(episodes, only=training, num_processes=processes, progress=True)
    path = out or data / "meta" / "normalizer.json"
    normalizer.save(path)
    print(f"{path} (fingerprint {normalizer.fingerprint()})")
