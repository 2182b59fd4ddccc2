"""Our data sets in LeRobot's own reader, and LeRobot's in ours. Needs LeRobot 0.4.x (in an environment of its own).

``PYTHONPATH=. python tests/data/lerobot_conformance.py check`` writes a small data set with our writer and compares
what LeRobot's reader sees; ``… fixture DIR`` writes tests/data/fixtures/lerobot_v3 with LeRobot's writer.

Install: ``pip install --no-deps lerobot==0.4.4 torchvision==0.21.0 draccus datasets pandas …`` beside this package;
torchvision 0.21 is the last with the video reader that needs no ffmpeg of the system.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from tests.data.conftest import SIZE, make_episode, toy_cameras
from xwam.data.lerobot import DatasetWriter, open_lerobot
from xwam.robot.layout import two_arm_layout

LENGTHS = (12, 9, 10)
_OPERATORS = torch.library.Library("torchvision", "DEF")


def import_lerobot() -> type:
    """LeRobot's data set class. torchvision built for another torch lacks its operators; nothing here uses them."""
    for name in ("nms", "qnms"):
        _OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset


def check(root: Path) -> None:
    """Write with ours, read with LeRobot's: frames, states, actions, words, statistics."""
    writer = DatasetWriter(
        root, layout=two_arm_layout("toy", single_arm=True), cameras=toy_cameras(), action_hz=20.0, robot_type="toy"
    )
    for number, length in enumerate(LENGTHS):
        writer.write(make_episode(number, length))
    writer.finish()
    ours = open_lerobot(root)
    dataset = import_lerobot()("local/toy", root=root, video_backend="pyav")
    assert (dataset.num_episodes, dataset.num_frames, dataset.fps) == (len(LENGTHS), sum(LENGTHS), 20)
    row = 0
    for number, length in enumerate(LENGTHS):
        info = ours.info(number)
        steps = np.arange(length)
        frames = {name: ours.frames(number, name, steps) for name in ("front", "wrist")}
        for step in steps:
            item = dataset[row]
            assert item["task"] == info.instruction
            np.testing.assert_array_equal(item["observation.state"].numpy(), info.state[step])
            np.testing.assert_array_equal(item["action"].numpy(), info.action[step])
            for name, images in frames.items():
                theirs = item[f"observation.images.{name}"].movedim(0, -1).numpy() * 255
                np.testing.assert_allclose(theirs, images[step], atol=0.01)
            pose = item["observation.camera.front.extrinsics"].reshape(4, 4).numpy()
            np.testing.assert_allclose(pose, ours.cameras[0].base_from_camera, atol=1e-6)
            row += 1
    np.testing.assert_allclose(dataset.meta.stats["action"]["q99"].shape, (14,))
    print(f"LeRobot's reader agrees on {row} frames of {len(LENGTHS)} episodes.")


def write_fixture(root: Path) -> None:
    """Write three episodes with LeRobot's writer, and some of what its reader then sees."""
    shape = {"dtype": "video", "shape": (SIZE, SIZE, 3), "names": ["height", "width", "channels"]}
    features = {f"observation.images.{name}": shape for name in ("front", "wrist")}
    features |= {
        "observation.state": {"dtype": "float32", "shape": (16,), "names": None},
        "action": {"dtype": "float32", "shape": (14,), "names": None},
    }
    lerobot = import_lerobot()
    dataset = lerobot.create("local/fixture", fps=20, features=features, root=root, use_videos=True)
    for number, length in enumerate(LENGTHS):
        episode = make_episode(number, length)
        for step in range(length):
            images = {f"observation.images.{name}": frames[step] for name, frames in episode.video.items()}
            vectors = {"observation.state": episode.state[step], "action": episode.action[step]}
            vectors = {name: value.astype(np.float32) for name, value in vectors.items()}
            dataset.add_frame(images | vectors | {"task": episode.instruction})
        dataset.save_episode()
    dataset.finalize()
    shutil.rmtree(root / "images", ignore_errors=True)
    dataset = lerobot("local/fixture", root=root, video_backend="pyav")
    rows = (0, 11, 12, 17, 30)
    seen = [[dataset[row][f"observation.images.{name}"] for name in ("front", "wrist")] for row in rows]
    frames = np.stack([[(image.movedim(0, -1) * 255).round().byte().numpy() for image in pair] for pair in seen])
    np.savez_compressed(root / "seen_by_lerobot.npz", rows=rows, frames=frames)


if __name__ == "__main__":
    if sys.argv[1] == "fixture":
        write_fixture(Path(sys.argv[2]))
    else:
        check(Path(tempfile.mkdtemp()) / "set")
