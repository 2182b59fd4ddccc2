"""Do the cameras show what their names say? Black, frozen, doubled and swapped cameras; depth in the wrong unit."""

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from xwam.check.data_motion import moving_arms
from xwam.check.data_subject import LISTED, Finding, Subject, finding_of
from xwam.data.clips import evenly_spaced
from xwam.data.lerobot import LeRobotEpisodes
from xwam.images import resize
from xwam.records import Camera
from xwam.robot.layout import layout_slices

MOST_EPISODES = 8
FRAMES = 8  # of each episode
GRID = 16  # pictures are compared at this size
LEAST_USED = 0.5  # share of a depth image's values that stand for distances that were measured
FLAT = 2.0  # grey levels of 255
MOVED = 6.0
RIDING = ("wrist", "hand", "gripper")  # names of cameras that ride on a hand
Pictures = dict[str, dict[int, Float[np.ndarray, "T 16 16 3"]]]


def check_pictures(subject: Subject) -> Iterator[Finding]:
    """All that pictures alone tell, on some frames of some episodes."""
    seen = _seen(subject)
    bad = []
    for name, films in seen.items():
        if films and np.concatenate(list(films.values())).std(axis=(1, 2)).max() < FLAT:
            bad.append(f"camera {name!r} shows nothing (one colour all over)")
    bad += _doubled(seen)
    bad += _swapped(seen)
    bad += _riding(subject, seen)
    good = f"{len(seen)} different views, each the same camera in every episode"
    yield finding_of("cameras", bad, good, "correct keys and order of the cameras")
    frozen, resting = _frozen(subject, seen)
    if frozen:
        yield Finding("wrong", "frozen cameras", f"{'; '.join(frozen[:LISTED])}: leave these episodes out")
    if resting:
        yield Finding("look", "still cameras", f"{'; '.join(resting[:LISTED])}: do they look at an arm that rests?")
    yield from _check_depth(subject)
    yield from _check_alignment(subject)


def _seen(subject: Subject) -> Pictures:
    """Small pictures of every camera in some episodes."""
    episodes = subject.episodes
    seen: Pictures = {camera.name: {} for camera in episodes.cameras}
    for number in evenly_spaced(episodes.num_episodes, MOST_EPISODES):
        steps = _some_steps(subject, number)
        for name, films in seen.items():
            frames = episodes.frames(number, name, steps)
            if frames is not None:
                films[number] = resize(_blocks(frames), GRID, GRID)
    return seen


def _some_steps(subject: Subject, number: int) -> Int[np.ndarray, " T"]:
    return np.array(evenly_spaced(subject.episodes.length(number), FRAMES))


def _blocks(frames: np.ndarray) -> Float[np.ndarray, "T h w 3"]:
    """Means of square blocks, so that shrinking further does not flicker."""
    size = max(1, min(frames.shape[1:3]) // GRID)
    height, width = (length // size * size for length in frames.shape[1:3])
    cut = frames[:, :height, :width].astype(np.float32)
    return cut.reshape(len(cut), height // size, size, width // size, size, 3).mean(axis=(2, 4))


def _doubled(seen: Pictures) -> list[str]:
    """Two cameras with the same pictures."""
    names, found = list(seen), []
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            both = seen[first].keys() & seen[second].keys()
            gaps = [np.abs(seen[first][n] - seen[second][n]).mean() for n in both]
            if gaps and max(gaps) < FLAT / 2:
                found.append(f"cameras {first!r} and {second!r} show the same pictures")
    return found


def _swapped(seen: Pictures) -> list[str]:
    """Episodes in which two cameras changed places: each looks like the other one elsewhere."""
    names, found = list(seen), []
    typical = {name: np.median([film[0] for film in films.values()], axis=0) for name, films in seen.items() if films}
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            for number in sorted(seen[first].keys() & seen[second].keys()):
                if min(len(seen[first]), len(seen[second])) < 3:
                    continue
                own = _far(seen[first][number], typical[first]) + _far(seen[second][number], typical[second])
                other = _far(seen[first][number], typical[second]) + _far(seen[second][number], typical[first])
                if other < 0.5 * own:
                    found.append(f"episode {number}: cameras {first!r} and {second!r} are swapped")
    return found


def _riding(subject: Subject, seen: Pictures) -> list[str]:
    """A camera on the hand sees everything move; one that stands still does not."""
    riding = {camera.name for camera in subject.episodes.cameras if not camera.is_static}
    riding |= {name for name in seen if any(word in name.lower() for word in RIDING)}
    shares = {name: _moving_share(films) for name, films in seen.items() if films}
    found = []
    for name in (name for name in shares if name not in riding):
        if riding & shares.keys() and shares[name] > 0.3:
            most = max((other for other in shares if other in riding), key=lambda other: shares[other])
            if shares[name] > 2 * shares[most]:
                found.append(
                    f"{shares[name]:.0%} of {name!r} moves and {shares[most]:.0%} of {most!r}, which should ride "
                    "on the hand: are they swapped?"
                )
    return found


def _frozen(subject: Subject, seen: Pictures) -> tuple[list[str], list[str]]:
    """Episodes in which a picture stands still while all arms move, and those in which some arm rests.

    Stored pictures that never change flicker a little, but where the robot is fastest two are equal to the last bit.
    """
    frozen, resting = [], []
    arms = {part.arm for part in subject.robot.state if part.key is not None}
    parts = layout_slices(subject.episodes.layout.state)
    arm_slots = np.concatenate([np.r_[where] for part, where in parts if part.kind != "gripper"])  # fingers are small
    for motion in subject.motions:
        moving = moving_arms(subject, motion.state)
        if not moving:
            continue
        fastest = int(np.abs(np.diff(motion.state[:, arm_slots], axis=0)).max(axis=1).argmax())
        steps = np.array([fastest, fastest + 1, fastest + 2]).clip(max=len(motion.state) - 1)
        for name, films in seen.items():
            film = films.get(motion.episode)
            if film is None or np.abs(np.diff(film, axis=0)).mean(axis=(1, 2, 3)).max(initial=0) > FLAT:
                continue
            frames = subject.episodes.frames(motion.episode, name, steps)
            if frames is not None and any(np.array_equal(frames[i], frames[i + 1]) for i in (0, 1)):
                found = frozen if moving == arms else resting
                found.append(f"camera {name!r} stands still in episode {motion.episode}")
    return frozen, resting


def _check_depth(subject: Subject) -> Iterator[Finding]:
    """Distances that the camera's range cannot hold: a wrong unit, or a range nobody set."""
    episodes = subject.episodes
    for camera in episodes.cameras:
        metres = [
            depth
            for number in evenly_spaced(episodes.num_episodes, MOST_EPISODES)
            if (depth := episodes.depth(number, camera.name, _some_steps(subject, number))) is not None
        ]
        if not metres:
            continue
        every = np.concatenate([depth.ravel() for depth in metres])
        known = every[every > 0]
        if not len(known):
            yield Finding("wrong", f"depth of {camera.name!r}", "no pixel is known: leave depth_key out")
            continue
        outside = float(((known < camera.near_m) | (known > camera.far_m)).mean())
        low, high = np.quantile(known, [0.01, 0.99])
        words = f"{low:.3g} to {high:.3g} m, {outside:.0%} outside near_m={camera.near_m:g} .. far_m={camera.far_m:g}"
        level = "wrong" if outside > 0.9 else "look" if outside > 0.1 else "fine"  # a room behind the table is no error
        advice = "" if level == "fine" else ": correct the range (or the unit of the depth)"
        tight = _tighter_range(camera, float(low), float(high)) if subject.is_declared and level == "fine" else None
        if tight is not None:
            level = "look"
            advice = (
                f": most of the image's values stand for no distance; write near_m={tight[0]:g}, far_m={tight[1]:g}"
            )
            advice += " in robot.json (or wider, where more may come near)"
        yield Finding(level, f"depth of {camera.name!r}", words + advice)


def _check_alignment(subject: Subject) -> Iterator[Finding]:
    """Depth in LeRobot's format that was not recorded here: no number says whether it is the colour camera's."""
    episodes = subject.episodes
    is_theirs = isinstance(episodes, LeRobotEpisodes) and not (episodes.root / "meta" / "layout.json").is_file()
    names = [repr(view.camera.name) for view in episodes.reading.views if view.source.depth_key is not None]
    if is_theirs and names:
        words = f"depth of {', '.join(names)} must be aligned to its colour camera: same size, same lens"
        advice = (
            "LeRobot's own recording of a RealSense is not; such depth lies beside what it belongs to, leave it out"
        )
        yield Finding("look", "alignment of depth", f"{words}. {advice}")


def _tighter_range(camera: Camera, low_m: float, high_m: float) -> tuple[float, float] | None:
    """The range to write, to two digits, where these distances fill little of the image: it is even in inverse depth.

    None where the range is good, or already the tightest that two digits can say.
    """
    low, high = np.clip([low_m, high_m], camera.near_m, camera.far_m).tolist()
    share = (1 / low - 1 / high) / (1 / camera.near_m - 1 / camera.far_m)
    steps = [10.0 ** (math.floor(math.log10(metres)) - 1) for metres in (low, high)]
    near, far = math.floor(low / steps[0]) * steps[0], math.ceil(high / steps[1]) * steps[1]
    if near >= far:  # one distance alone
        near, far = near - steps[0], far + steps[1]
    near, far = max(camera.near_m, round(near, 9)), min(camera.far_m, round(far, 9))
    return None if share >= LEAST_USED or (near, far) == (camera.near_m, camera.far_m) else (near, far)


def _far(film: np.ndarray, picture: np.ndarray) -> float:
    return float(np.abs(film[0] - picture).mean())


def _moving_share(films: dict[int, np.ndarray]) -> float:
    """Share of the picture that changes between looks."""
    return float(np.mean([(np.abs(np.diff(film, axis=0)).max(axis=-1) > MOVED).mean() for film in films.values()]))
