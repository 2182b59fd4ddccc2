"""HDF5 files as people really have them: words and marks anywhere, links, odd folders, damage; each named or read."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.data.foreign import ARM, SIZE, STEPS, copy_of, write_foreign
from tests.data.hdf5_sets import EPISODES, WORDS, robot, write_aloha, write_robomimic, write_robotwin
from xwam.check.data import check_data
from xwam.data.hdf5_index import hdf5_files
from xwam.data.hdf5_read import open_hdf5
from xwam.data.lerobot import DatasetWriter
from xwam.data.opening import open_data
from xwam.robot.robot_json import robot_fingerprint
from xwam.train.prepare import wordings_of
from xwam.train.sources import Source
from xwam.train.text import list_texts

ALOHA = robot("aloha")


def lift(**changes):
    return replace(robot("robomimic"), instruction="lift the cube", **changes)


def texts(root, which, level: str) -> str:
    return "\n".join(f"{f.check}: {f.text}" for f in check_data(root, which) if f.level == level)


def test_words_wherever_they_are(tmp_path):
    path = write_robomimic(tmp_path / "kitchen.hdf5", episodes=9)
    with h5py.File(path, "a") as file:
        demos = [file[f"data/demo_{n}"] for n in range(9)]
        demos[0].attrs["ep_meta"] = json.dumps({"lang": "open the left drawer"})
        demos[1]["language_instruction"] = np.array([b"turn the knob"] * STEPS)
        demos[2]["instruction"] = "wipe the table"
        demos[3].attrs["instruction"] = np.array(["close the lid"], dtype=object)
        demos[4].attrs["lang"] = np.bytes_(b'  "press it"  ')
        demos[5].attrs["language_instruction"] = np.array([0.1, 0.2])  # an embedding is no text
        demos[6].attrs["instruction"] = 'press the button "start"'
        demos[7].attrs["ep_meta"] = "{}"
        demos[7].attrs["instruction"] = "stir"
        demos[8].create_group("instruction")
    rows = open_data(path, robot=lift()).rows
    expected = ["open the left drawer", "turn the knob", "wipe the table", "close the lid", "press it", "lift the cube"]
    assert [row.instruction for row in rows] == [*expected, 'press the button "start"', "stir", "lift the cube"]
    with h5py.File(path, "a") as file:
        file["data"].attrs["problem_info"] = np.bytes_(json.dumps({"language_instruction": list("open it")}).encode())
    assert open_data(path, robot=lift()).rows[5].instruction == "open it", "of the file"
    with h5py.File(path, "a") as file:
        file["data/demo_0"].attrs["ep_meta"] = "{lang"
    with pytest.raises(ValueError, match=r"kitchen.hdf5 group='/data/demo_0' attribute 'ep_meta' is no JSON"):
        open_data(path, robot=lift())


def test_episodes_at_the_root_and_files_with_a_group_of_that_name(tmp_path):
    source = write_robomimic(tmp_path / "a/x.hdf5", episodes=11)
    (tmp_path / "b").mkdir()
    with h5py.File(source) as given, h5py.File(tmp_path / "b/trajectory.h5", "w") as file:
        for number in range(11):
            given.copy(f"data/demo_{number}", file, name=f"traj_{number}")
    episodes = open_data(tmp_path / "b", robot=lift())
    assert [row.group for row in episodes.rows] == [f"/traj_{n}" for n in range(11)]
    root = write_aloha(tmp_path / "aloha")
    with h5py.File(root / "episode_1.hdf5", "a") as file:
        file["data/times"] = np.arange(STEPS)  # a group of columns is no group of episodes
    assert open_data(root, robot=ALOHA).num_episodes == EPISODES


def test_one_state_more_than_actions_and_columns_that_do_not_go_together(tmp_path):
    root = write_aloha(tmp_path / "set")

    def resize(key: str, count: int) -> None:
        with h5py.File(root / "episode_1.hdf5", "a") as file:
            rows = np.resize(file[key][()], (count, 14))
            del file[key]
            file[key] = rows

    whole = open_data(root, robot=ALOHA).info(1)
    resize("observations/qpos", STEPS + 1)
    np.testing.assert_array_equal(open_data(root, robot=ALOHA).info(1).action, whole.action)
    resize("observations/qpos", STEPS + 2)
    with pytest.raises(ValueError, match=rf"episode_1.hdf5 group='/' has columns of different lengths .*{STEPS + 2}"):
        open_data(root, robot=ALOHA)
    resize("observations/qpos", STEPS)
    resize("action", 0)
    with pytest.raises(ValueError, match=r"episode_1.hdf5 group='/' is empty"):
        open_data(root, robot=ALOHA)
    with h5py.File(root / "episode_1.hdf5", "a") as file:
        del file["action"]
        file["action"] = np.zeros((STEPS, 1))
    with pytest.raises(ValueError, match=r"episode_1.hdf5 group='/' has columns of widths .*'action': 1"):
        open_data(root, robot=ALOHA)


def test_every_file_is_looked_at(tmp_path):
    write_robomimic(tmp_path / "a.hdf5")
    write_robomimic(tmp_path / "b.hdf5", control_freq=50)
    with pytest.raises(ValueError, match=r"b.hdf5 was recorded with control_freq=50: .* is 20; correct it"):
        open_data(tmp_path, robot=lift())


def test_folders_with_links_and_other_things(tmp_path):
    real = write_aloha(tmp_path / "disk/set")
    root = tmp_path / "links"
    root.mkdir()
    (root / "set").symlink_to(real)
    (real / "round").symlink_to(root)  # a circle
    (real / "._episode_0.hdf5").write_bytes(b"what a Mac leaves behind")
    (root / "metadata.json").write_text("{}")
    os.rename(real / "episode_2.hdf5", real / "episode_2.HDF5")
    assert open_data(root, robot=ALOHA).num_episodes == EPISODES
    with h5py.File(real / "episode_0.hdf5", "a") as file:
        file.move("observations/qpos", "raw")
        file["observations/qpos"] = h5py.SoftLink("/raw")
    assert len(open_data(root, robot=ALOHA).info(0).state) == STEPS // 2


def test_a_camera_or_depth_that_the_first_episode_lacks(tmp_path):
    root = write_aloha(tmp_path / "set")
    with h5py.File(root / "episode_0.hdf5", "a") as file:
        del file["observations/images/cam_high"]
    high, *others = ALOHA.cameras
    episodes = open_data(root, robot=replace(ALOHA, cameras=(replace(high, may_be_missing=True), *others)))
    assert episodes.frames(0, "high", np.array([0])) is None
    assert episodes.frames(1, "high", np.array([0])).shape == (1, SIZE, SIZE, 3)
    twin = write_robotwin(tmp_path / "twin", depth=False)
    assert open_data(twin, robot=robot("robotwin")).depth(0, "head", np.array([0])) is None
    with h5py.File(twin / "data/episode0.hdf5", "a") as file:
        file["observation/head_camera/depth"] = np.ones((STEPS, SIZE // 2, SIZE // 2))
    head, *others = robot("robotwin").cameras
    deep = replace(head, depth_key="observation/head_camera/depth")
    with pytest.raises(ValueError, match=r"depth_key=.* has size \(16, 16\), its pictures \(32, 32\)"):
        open_data(twin, robot=replace(robot("robotwin"), cameras=(deep, *others)))


def test_damage_is_named(tmp_path):
    root = write_aloha(tmp_path / "set", compressed=True)
    with h5py.File(root / "episode_1.hdf5", "a") as file:
        file["observations/images/cam_high"][4] = 0
    with pytest.raises(ValueError, match=r"cam_high' in episode_1.hdf5 group='/': a picture of .* cannot be read"):
        open_data(root, robot=ALOHA).frames(1, "high", np.array([2]))
    path = hdf5_files(root)[2]
    with h5py.File(path, "a") as file:
        rows = file["action"][()]
        del file["action"]
        file.create_dataset("action", data=rows, chunks=rows.shape, compression="gzip")
        place = file["action"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[place.byte_offset + 20 : place.byte_offset + 60] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"episode_2.hdf5: cannot be read .* copy it again"):
        open_hdf5(root, robot=ALOHA).info(2)
    assert "episode_2.hdf5: cannot be read" in texts(root, ALOHA, "wrong"), "the checks say so as well"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"episode_2.hdf5: cannot be read .* copy it again"):
        open_data(root, robot=ALOHA)


def test_what_the_checks_ask_a_person_to_look_at(tmp_path):
    for name in ("a", "b"):
        write_robomimic(tmp_path / f"{name}.hdf5")
    assert "words: all 2 files, which hold many episodes each, say 'lift the cube'" in texts(tmp_path, lift(), "look")
    less = "timing of 'left_position': action_ahead=0 fits as well"
    assert less in texts(tmp_path, lift(action_ahead=1), "look"), "these files need 0"
    assert less not in texts(tmp_path, lift(), "look")
    libero = write_robomimic(tmp_path / "libero/x.hdf5", is_libero=True)
    assert less not in texts(libero, robot("libero"), "look"), "these need 1"


def test_files_without_a_rate_are_played_at_that_of_robot_json(tmp_path):
    root = write_aloha(tmp_path / "aloha")
    text = "fps: the files name no rate; robot.json says 50 frames per second, and so will it be played"
    assert texts(root, ALOHA, "look").count(text) == 1
    write_robomimic(tmp_path / "one/a.hdf5")
    assert "fps: 20 frames per second, as the files say" in texts(tmp_path / "one", lift(), "fine")
    with h5py.File(write_robomimic(tmp_path / "one/b.hdf5"), "a") as file:
        del file["data"].attrs["env_args"]
    assert "fps: b.hdf5 names no rate; robot.json says 20 frames" in texts(tmp_path / "one", lift(), "look")


def test_one_instruction_for_several_folders(tmp_path):
    """Words in the files, or one folder with many files, are nothing to look at."""
    which = replace(ALOHA, instruction="fold the towel")
    for name in ("fold", "open_jar"):
        write_aloha(tmp_path / "tasks" / name, words=False)
    text = "words: robot.json's instruction 'fold the towel' stands for 2 folders (fold, open_jar): are they one task?"
    assert text in texts(tmp_path / "tasks", which, "look")
    assert "words" not in texts(tmp_path / "tasks/fold", which, "look")
    assert "words" not in texts(write_aloha(tmp_path / "tasks/told"), which, "look")
    with h5py.File(tmp_path / "tasks/told/episode_0.hdf5", "a") as file:
        file.attrs["language_instruction"] = which.instruction
    assert "stands for 2 folders" in texts(tmp_path / "tasks", which, "look"), "its own words are its own"
    shutil.rmtree(tmp_path / "tasks/open_jar")
    assert "words" not in texts(tmp_path / "tasks", which, "look")
    alone = write_robomimic(tmp_path / "alone.hdf5")
    assert "words" not in texts(alone, lift(), "look")


def tasks_of(*sets):
    """The tasks of some data sets (each with its robot), with their wordings; none stands for two."""
    wordings = wordings_of([Source(str(root), open_data(root, robot=which), which, None) for root, which in sets])
    list_texts(wordings)
    return wordings


def test_a_task_has_one_name_however_it_was_recorded(tmp_path, monkeypatch):
    ways, which = ("demo_clean", "demo_randomized", "aloha-agilex_clean_50"), robot("robotwin")
    for way in ways:
        write_robotwin(tmp_path / "sets/lift_pot" / way, depth=False)
    assert tasks_of((tmp_path / "sets", which)) == {"lift_pot": sorted(WORDS)}
    assert tasks_of(*((tmp_path / "sets/lift_pot" / way, which) for way in ways)) == {"lift_pot": sorted(WORDS)}
    monkeypatch.chdir(tmp_path / "sets/lift_pot/demo_clean")
    for here in (".", "data", "../demo_clean"):
        assert tasks_of((Path(here), which)) == {"lift_pot": sorted(WORDS)}
    (tmp_path / "linked").symlink_to(tmp_path / "sets/lift_pot/demo_clean")
    assert list(tasks_of((tmp_path / "linked", which))) == ["lift_pot"]
    for name in ("open_door", "close_door"):
        root = write_robotwin(tmp_path / "flat" / name, depth=False)
        for number, path in enumerate(sorted((root / "instructions").iterdir())):
            path.write_text(json.dumps([f"{name}, please ({number})"]))
    assert list(tasks_of((tmp_path / "flat", which))) == ["flat/close_door", "flat/open_door"], "two tasks stay two"


def test_words_that_stand_for_a_task_join_the_one_that_has_a_name(tmp_path, layout, cameras):
    """LeRobot's own sets have only words; in ours a task has a name besides."""
    from tests.data.conftest import make_episode

    theirs = write_foreign(tmp_path / "theirs", episodes=2)
    for path in (theirs / "meta/episodes").rglob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["task_name"]), path)
    writer = DatasetWriter(tmp_path / "ours", layout=layout, cameras=cameras, action_hz=20.0, robot_type="toy")
    for words in ("pick up cup 0", "take cup 0"):
        writer.write(replace(make_episode(0), task="cup-v3", instruction=words))
    writer.finish()
    expected = {"cup-v3": ["pick up cup 0", "take cup 0"], "pick up cup 1": ["pick up cup 1"]}
    assert tasks_of((tmp_path / "ours", None), (theirs, ARM)) == expected
    assert tasks_of((theirs, ARM)) == {words: [words] for words in ("pick up cup 0", "pick up cup 1")}


def test_guessed_depth_stays_with_its_episode(tmp_path):
    root = write_robotwin(tmp_path / "set", depth=False)
    which = robot("robotwin")
    episodes = open_data(root, robot=which)
    assert [episodes.label(number) for number in range(EPISODES)] == [f"data/episode{n}" for n in range(EPISODES)]
    assert open_data(write_robomimic(tmp_path / "x.hdf5"), robot=lift()).label(2) == "x/data/demo_2"
    assert open_data(write_foreign(tmp_path / "lerobot"), robot=ARM).label(2) == "2"


def test_a_robot_without_the_new_words_keeps_its_fingerprint():
    """Latents that were cached before ``action_ahead`` and its like were known still belong to it."""
    assert robot_fingerprint(ARM) == "098ff970b6e261b7"
    assert robot_fingerprint(replace(ARM, action_ahead=1)) != robot_fingerprint(ARM)
    front, wrist = ARM.cameras
    assert robot_fingerprint(replace(ARM, cameras=(replace(front, mirrored=True), wrist))) != robot_fingerprint(ARM)


def test_lerobot_sets_with_hdf5_inside_stay_lerobot_sets(tmp_path):
    root = copy_of(write_foreign(tmp_path / "given"), tmp_path / "set")
    write_robomimic(root / "raw/image.hdf5")
    assert type(open_data(root, robot=ARM)).__name__ == "LeRobotEpisodes"
