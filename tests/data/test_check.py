"""Each mistake that people make with their data is planted once, and found; a sound data set is called sound."""

import json
import os
import shutil
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.spatial.transform import Rotation

from tests.data.foreign import ARM, EPISODES, FPS, STEPS, change_columns, copy_of, pictures, video_of, write_foreign
from xwam.check.data import check_data, is_wrong
from xwam.check.data_pictures import _tighter_range
from xwam.data.lerobot import open_lerobot
from xwam.data.videos import write_rgb
from xwam.records import Camera
from xwam.robot.layout import two_arm_layout
from xwam.robot.parts import PartSource
from xwam.robot.robot_json import RobotConfig

POSITION, TURN, GRIP = ARM.action
STATE_KEY = "observation.state"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_foreign(tmp_path_factory.mktemp("check") / "theirs", depth=True)


@pytest.fixture
def planted(sound, tmp_path):
    return copy_of(sound, tmp_path / "set")


def wrong(root, robot: RobotConfig = ARM) -> str:
    """All that the checks call wrong, in one text."""
    return "\n".join(f"{f.check}: {f.text}" for f in check_data(root, robot) if f.level == "wrong")


def looks(root, robot: RobotConfig = ARM) -> str:
    return "\n".join(f"{f.check}: {f.text}" for f in check_data(root, robot) if f.level == "look")


def acting(*parts) -> RobotConfig:
    """The arm with other action parts."""
    named = {part.name: part for part in parts}
    return replace(ARM, action=tuple(named.get(part.name, part) for part in ARM.action))


def sensing(part) -> RobotConfig:
    return replace(ARM, state=tuple(part if part.name == other.name else other for other in ARM.state))


def test_a_sound_data_set(sound):
    findings = check_data(sound, ARM)
    assert wrong(sound) == ""
    assert not is_wrong(findings), "something to look at is no mistake"
    fine = {finding.check for finding in findings if finding.level == "fine"}
    assert {"frame counts", "gaps", "fps", "video frames", "NaN", "constant slots", "jumps", "cameras"} <= fine
    assert {"action 'left_position'", "action 'left_rotation'", "gripper 'left_gripper'"} <= fine
    assert looks(sound).startswith("action 'left_rotation': both orders of quaternions fit targets equally well")


def test_how_much_teaches_how_to_act(planted):
    def half_of_one(number, columns):
        columns["is_demonstration"] &= (number != 1) | (np.arange(STEPS) < STEPS // 2)

    def nothing(_, columns):
        columns["is_demonstration"] &= False

    change_columns(planted, half_of_one)
    total = EPISODES * STEPS
    finding = next(finding for finding in check_data(planted, ARM) if finding.check == "demonstrations")
    assert finding.level == "fine"
    assert finding.text == f"{EPISODES} of {EPISODES} episodes, {total - STEPS // 2} of {total} actions"
    change_columns(planted, nothing)
    assert f"demonstrations: 0 of {EPISODES} episodes, 0 of {total} actions: it teaches what follows" in looks(planted)
    info = json.loads((planted / "meta/info.json").read_text())
    del info["features"]["is_demonstration"]
    (planted / "meta/info.json").write_text(json.dumps(info))
    assert "meta/info.json does not name it, so it is not read" in looks(planted)


def test_rows_are_missing(planted):
    path = sorted((planted / "data").rglob("*.parquet"))[1]
    pq.write_table(pq.read_table(path).slice(0, STEPS - 5), path)
    assert f"frame counts: episode 1 has {STEPS - 5} rows of {STEPS}" in wrong(planted)
    assert is_wrong(check_data(planted, ARM))


def test_a_video_is_short(planted):
    write_rgb(video_of(planted, "cam_high", 2), pictures(2)["cam_high"][: STEPS - 4], FPS)
    assert f"file-002.mp4 has {STEPS - 4} frames of {STEPS}" in wrong(planted)


def test_frames_were_dropped(planted):
    def skip(number, columns):
        if number == 1:
            columns["frame_index"][10:] += 3
            columns["timestamp"][10:] += 3 / FPS

    change_columns(planted, skip)
    assert "gaps: episode 1 after frame 9" in wrong(planted)


def test_the_rate_is_another(planted):
    def slower(_, columns):
        columns["timestamp"] = columns["timestamp"] * 2

    change_columns(planted, slower)
    assert "fps: frames are 0.1 s apart: 10 per second, not 20" in wrong(planted)
    info = json.loads((planted / "meta/info.json").read_text())
    (planted / "meta/info.json").write_text(json.dumps(info | {"fps": 30}))
    assert "robot 'their_arm' says action_hz=20" in wrong(planted)
    assert "runs at 20 fps, the data set at 30" in wrong(planted, replace(ARM, action_hz=30.0))


def test_a_number_is_none(planted):
    def break_one(number, columns):
        if number == 2:
            columns[STATE_KEY][7, 1] = np.nan

    change_columns(planted, break_one)
    assert f"NaN: episode 2 frame 7 slot 1 of '{STATE_KEY}'" in wrong(planted)


def test_a_rotation_of_zeros_is_found_and_the_rest_is_checked_all_the_same(planted):
    def dead_row(number, columns):
        if number == 1:
            columns[STATE_KEY][5, 3:7] = 0

    change_columns(planted, dead_row)
    assert wrong(planted).splitlines() == [
        f"NaN: episode 1 frame 5 slots 3..6 of '{STATE_KEY}': drop these frames or episodes"
    ]
    assert "jumps" in {finding.check for finding in check_data(planted, ARM)}


def test_a_unit_that_nobody_said(planted, sound):
    """Millimetres on both sides agree with each other, and still are not metres."""
    metres = replace(ARM, state=(replace(ARM.state[0], unit="m"), *ARM.state[1:]))
    metres = replace(metres, action=(replace(ARM.action[0], unit="m"), *ARM.action[1:]))
    assert "units: 'left_position' reaches" in wrong(sound, metres)
    assert "is it written in mm?" in wrong(sound, metres)
    joints = PartSource(what="joints", key=STATE_KEY, size=3)
    degrees = replace(ARM, state=(joints,), action=(replace(joints, key="action"),))
    assert "is it written in deg?" in wrong(sound, degrees)
    assert "units" not in wrong(sound, replace(ARM, state=(replace(joints, unit="1"),), action=degrees.action))


def test_per_cent_of_the_range_taken_for_degrees(planted):
    """LeRobot before 0.5 clips joints to -100..100 of their range; real degrees stop anywhere else."""
    joints = PartSource(what="joints", key=STATE_KEY, size=3, unit="deg")
    robot = replace(ARM, state=(joints,), action=(replace(joints, key="action"),))
    swing = 130 * np.sin(np.arange(STEPS + 1) / 5)[:, None] * [1.0, 0.5, 0.1]

    def per_cent(number, columns):
        rows = swing.clip(-99.8, 99.8) if number == 1 else 0.5 * swing
        columns[STATE_KEY][:, :3], columns["action"][:, :3] = rows[:-1], rows[1:]

    def degrees(_, columns):
        columns[STATE_KEY][:, :3], columns["action"][:, :3] = swing[:-1], swing[1:]

    change_columns(planted, per_cent)
    text = "units: 'left_joints' reaches 99.8 and never more: perhaps it is per cent of the range"
    assert looks(planted, robot).count(text) == 1
    plain = replace(joints, unit="1")
    assert "per cent" not in looks(planted, replace(robot, state=(plain,), action=(replace(plain, key="action"),)))
    change_columns(planted, degrees)
    assert "per cent" not in looks(planted, robot)


def test_an_arm_that_rests_is_no_mistake(planted):
    """The second arm is in the first one's columns, and its numbers never change; nor does what its camera sees."""
    robot = replace(
        ARM,
        state=(*ARM.state, PartSource(what="position", arm="right", key="rest", unit="mm")),
        action=(*ARM.action, PartSource(what="position", arm="right", key="rest", unit="mm")),
    )
    info = json.loads((planted / "meta/info.json").read_text())
    info["features"]["rest"] = {"dtype": "float32", "shape": [3], "names": None}
    (planted / "meta/info.json").write_text(json.dumps(info))
    for path in sorted((planted / "data").rglob("*.parquet")):
        table = pq.read_table(path)
        rest = pa.array([[400.0, 0.0, 300.0]] * len(table), pa.list_(pa.float32(), 3))
        pq.write_table(table.append_column("rest", rest), path)
    for number in range(EPISODES):
        still = np.repeat(pictures(number)["cam_wrist"][:1], STEPS, axis=0)
        write_rgb(video_of(planted, "cam_wrist", number), still, FPS)
    assert wrong(planted, robot) == ""
    seen = looks(planted, robot)
    assert "state 'right_position' slots [0, 1, 2] never change: does this arm rest in all episodes?" in seen
    assert "still cameras: camera 'wrist' stands still in episode 0" in seen
    assert "action 'right_position': neither actions nor states move" in seen
    assert "frozen cameras" in wrong(planted), "where the only arm moves, it is one"


def test_several_tasks_in_an_episode(planted):
    for path in (planted / "meta/episodes").rglob("*.parquet"):
        table = pq.read_table(path)
        tasks = [[*entry, "and then wipe the table"] for entry in table["tasks"].to_pylist()]
        index = table.schema.get_field_index("tasks")
        column = pa.array(tasks, table.schema.field("tasks").type)
        pq.write_table(table.set_column(index, "tasks", column), path)
    assert "words: 4 episodes have several tasks, such as 0: all of it gets the first one's words" in looks(planted)


def test_nobody_recorded_the_position(planted):
    def hold(_, columns):
        columns[STATE_KEY][:, :3] = [400, 0, 300]

    change_columns(planted, hold)
    assert "constant slots: state 'left_position' slots [0, 1, 2] never change" in wrong(planted)


def test_one_slot_stands_still(planted):
    def hold(_, columns):
        columns[STATE_KEY][:, 2] = 300
        columns["action"][:, 2] = 300

    change_columns(planted, hold)
    assert wrong(planted) == "", "a robot may move in a plane"
    assert "state 'left_position' slots [2] never change" in looks(planted)


def test_the_state_jumps(planted):
    def jump(number, columns):
        if number == 3:
            columns[STATE_KEY][20:, 0] += 400
            columns["action"][19:, 0] += 400

    change_columns(planted, jump)
    assert "jumps: 'left_position' by 0.4" in wrong(planted)
    assert "after step 19 of 3" in wrong(planted)


def test_the_order_of_quaternions_by_the_names_of_the_slots(planted):
    info = json.loads((planted / "meta/info.json").read_text())
    info["features"][STATE_KEY]["names"] = {"motors": ["x", "y", "z", "qw", "qx", "qy", "qz", "grip"]}
    (planted / "meta/info.json").write_text(json.dumps(info))
    assert "form='quat_xyzw', but the data set's names of the slots say 'quat_wxyz'" in wrong(planted)


def test_the_order_of_quaternions_by_the_actions(planted):
    """Changes of rotation (here as rotation vectors) fit the states in one order only."""

    def as_changes(_, columns):
        now = Rotation.from_quat(columns[STATE_KEY][:, 3:7])
        columns["action"][:, 3:6] = (Rotation.from_quat(columns["action"][:, 3:7]) * now.inv()).as_rotvec()

    change_columns(planted, as_changes)
    turn = replace(TURN, form="axis_angle", reference="delta")
    assert wrong(planted, acting(turn)) == ""
    swapped = replace(acting(turn), state=(ARM.state[0], replace(ARM.state[1], form="quat_wxyz"), ARM.state[2]))
    assert "form='quat_xyzw' of the state fits the states better" in wrong(planted, swapped)


def test_one_of_two_quaternions_has_the_other_order(planted):
    def roll(_, columns):
        columns["action"][:, 3:7] = np.roll(columns["action"][:, 3:7], 1, axis=1)

    change_columns(planted, roll)
    assert "action 'left_rotation': form='quat_wxyz' fits the states better" in wrong(planted)


def test_the_sign_of_quaternions(planted):
    def flip(number, columns):
        columns[STATE_KEY][5:9, 3:7] *= -1

    change_columns(planted, flip)
    assert wrong(planted) == "", "both signs are the same rotation"
    assert f"sign flips {2 * EPISODES} times in the files" in looks(planted)


def test_what_is_called_a_quaternion_is_none(planted):
    state = (ARM.state[0], replace(ARM.state[1], start=4))  # one slot too late
    assert "lengths are off 1" in wrong(planted, replace(ARM, state=state, action=(POSITION, TURN)))


def test_a_hand_that_points_down_flickers(planted):
    def turn_over(_, columns):
        over = Rotation.from_euler("x", 180, degrees=True) * Rotation.from_euler("xyz", [0.5, -0.3, 0.8]).inv()
        for key in (STATE_KEY, "action"):
            columns[key][:, 3:7] = (Rotation.from_quat(columns[key][:, 3:7]) * over).as_quat()

    change_columns(planted, turn_over)
    assert "turns by about half a turn" in looks(planted)
    assert wrong(planted) == ""


def test_targets_taken_for_changes(planted):
    text = wrong(planted, acting(replace(POSITION, reference="delta")))
    assert "action 'left_position': reference='absolute' fits the states better" in text


def test_changes_taken_for_targets(planted):
    def as_changes(_, columns):
        columns["action"][:, :3] -= columns[STATE_KEY][:, :3]

    change_columns(planted, as_changes)
    assert "action 'left_position': reference='delta' fits the states better" in wrong(planted)
    assert wrong(planted, acting(replace(POSITION, reference="delta"))) == ""


def test_changes_in_the_hands_axes_taken_for_the_bases(planted):
    def in_hand(_, columns):
        hand = Rotation.from_quat(columns[STATE_KEY][:, 3:7])
        columns["action"][:, :3] = hand.inv().apply(columns["action"][:, :3] - columns[STATE_KEY][:, :3])

    change_columns(planted, in_hand)
    assert "reference='hand_delta' fits the states better" in wrong(
        planted, acting(replace(POSITION, reference="delta"))
    )
    assert wrong(planted, acting(replace(POSITION, reference="hand_delta"))) == ""


def test_metres_taken_for_millimetres(planted):
    def in_metres(_, columns):
        columns["action"][:, :3] = (columns["action"][:, :3] - columns[STATE_KEY][:, :3]) / 1000

    change_columns(planted, in_metres)
    robot = acting(replace(POSITION, reference="delta"))
    assert "states move 1e+03 of what actions say: unit or scale" in wrong(planted, robot)
    assert wrong(planted, acting(replace(POSITION, reference="delta", unit="m"))) == ""


def test_the_gripper_closes_when_told_to_open(planted):
    assert "opens when told to close" in wrong(planted, acting(replace(GRIP, closed=0.0, open=1.0)))


def test_the_grippers_range_is_another(planted):
    text = wrong(planted, sensing(replace(ARM.state[2], open=1.0)))
    assert "openings run from" in text
    assert "closed and open must make it 0 to 1" in text


def test_cameras_change_places_in_one_episode(planted):
    paths = [video_of(planted, camera, 1) for camera in ("cam_high", "cam_wrist")]
    os.rename(paths[0], planted / "aside.mp4")
    os.rename(paths[1], paths[0])
    os.rename(planted / "aside.mp4", paths[1])
    assert "episode 1: cameras 'front' and 'wrist' are swapped" in wrong(planted)


def test_the_camera_on_the_hand_is_called_front(sound):
    front, wrist = ARM.cameras
    swapped = replace(ARM, cameras=(replace(front, key=wrist.key), replace(wrist, key=front.key)))
    assert "which should ride on the hand: are they swapped?" in wrong(sound, swapped)


def test_a_camera_is_black_or_doubled_or_frozen(planted):
    for number in range(EPISODES):
        black = pictures(number)["cam_wrist"] * 0
        write_rgb(video_of(planted, "cam_wrist", number), black, FPS)
    assert "camera 'wrist' shows nothing" in wrong(planted)
    for number in range(EPISODES):
        shutil.copy(video_of(planted, "cam_high", number), video_of(planted, "cam_wrist", number))
    assert "cameras 'front' and 'wrist' show the same pictures" in wrong(planted)
    still = np.repeat(pictures(0)["cam_wrist"][:1], STEPS, axis=0)
    write_rgb(video_of(planted, "cam_wrist", 0), still, FPS)
    assert "camera 'wrist' stands still in episode 0" in wrong(planted)


def test_depth_beyond_the_cameras_range(sound):
    front = replace(ARM.cameras[0], depth_key="observation.images.cam_high_depth")
    assert wrong(sound, replace(ARM, cameras=(front, ARM.cameras[1]))) == ""
    short = replace(front, near_m=0.05, far_m=0.5)
    assert "100% outside near_m=0.05 .. far_m=0.5" in wrong(sound, replace(ARM, cameras=(short, ARM.cameras[1])))


def test_depth_of_another_lens_cannot_be_seen_so_a_person_is_asked(sound, planted):
    front = replace(ARM.cameras[0], depth_key="observation.images.cam_high_depth")
    deep = replace(ARM, cameras=(front, ARM.cameras[1]))
    assert looks(sound, deep).count("alignment of depth: depth of 'front' must be aligned to its colour camera") == 1
    assert "alignment" not in looks(sound)
    (planted / "meta/layout.json").write_text("{}")
    assert "alignment" not in looks(planted, deep), "our own is"


def test_a_range_of_depth_that_is_far_too_wide(sound):
    """What is told, written into robot.json, is good; so is any range that is half full."""
    front = replace(ARM.cameras[0], depth_key="observation.images.cam_high_depth", near_m=0.1, far_m=10.0)
    text = looks(sound, replace(ARM, cameras=(front, ARM.cameras[1])))
    assert "0% outside near_m=0.1 .. far_m=10: most of the image's values stand for no distance" in text
    assert "write near_m=0.99, far_m=2 in robot.json" in text
    for near_m, far_m in ((0.99, 2.0), (0.8, 2.2)):
        good = replace(front, near_m=near_m, far_m=far_m)
        assert "most of the image" not in looks(sound, replace(ARM, cameras=(good, ARM.cameras[1])))
    flat = Camera(name="front", width=8, height=8, near_m=0.9, far_m=1.1)
    assert _tighter_range(flat, 1.003, 1.006) == (1.0, 1.1)
    assert _tighter_range(replace(flat, near_m=1.0), 1.003, 1.006) is None, "two digits cannot say it more closely"
    wall = replace(flat, near_m=0.1, far_m=4.0)
    assert [_tighter_range(wall, metres, metres) for metres in (1.5, 4.0, 0.1)] == [(1.4, 1.6), (3.9, 4.0), (0.1, 0.11)]


def calibrated(camera, base_from_camera, intrinsics=((40, 0, 16), (0, 40, 16), (0, 0, 1))) -> RobotConfig:
    rows = tuple(tuple(map(float, row)) for row in intrinsics)
    front = replace(camera, intrinsics=rows, base_from_camera=tuple(map(tuple, np.asarray(base_from_camera).tolist())))
    return replace(ARM, cameras=(front, ARM.cameras[1]))


ABOVE = np.array([[1, 0, 0, 0.4], [0, -1, 0, 0], [0, 0, -1, 1.2], [0, 0, 0, 1.0]])  # looks down on the table


def test_a_calibration_that_fits(sound):
    robot = calibrated(ARM.cameras[0], ABOVE)
    fine = {f.check: f.text for f in check_data(sound, robot) if f.level == "fine"}
    assert fine["calibration"].startswith("of 1 cameras: lenses fit")
    assert "calibration" not in {finding.check for finding in check_data(sound, ARM)}


def test_a_pose_that_is_none(sound):
    """The wrong way round, the axes of OpenGL, millimetres: each sees no hand."""
    total, front = EPISODES * STEPS, ARM.cameras[0]
    up = ABOVE @ np.diag([1.0, -1, -1, 1])
    text = looks(sound, calibrated(front, up))
    assert f"pose of 'front': sees no hand in {total} of {total} frames ({total} of them: behind it)" in text
    aside = ABOVE.copy()
    aside[0, 3] = 400
    text = looks(sound, calibrated(front, aside))
    assert f"pose of 'front': sees no hand in {total} of {total} frames (0 of them: behind it)" in text
    assert wrong(sound, calibrated(front, up)) == ""
    side = np.array([[0, 0, -1, 1.5], [1, 0, 0, 0], [0, -1, 0, 0.3], [0, 0, 0, 1.0]])  # from before the arm
    assert "pose of" not in looks(sound, calibrated(front, side))
    assert "pose of 'front'" in looks(sound, calibrated(front, np.linalg.inv(side)))


def test_a_lens_of_other_pictures(sound):
    front = ARM.cameras[0]
    text = wrong(sound, calibrated(front, ABOVE, [[40, 0, 320], [0, 40, 240], [0, 0, 1]]))
    assert "lens of 'front': (cx, cy) = (320, 240) lies outside of its 32 x 32 pixels" in text
    larger = calibrated(front, ABOVE, [[40, 0, 30], [0, 40, 16], [0, 0, 1]])
    assert wrong(sound, larger) == ""
    assert "lens of 'front': (cx, cy) = (30, 16) lies far from the middle of its 32 x 32" in looks(sound, larger)


def test_pictures_are_no_depth(sound):
    front = replace(ARM.cameras[0], depth_key=ARM.cameras[1].key)
    with pytest.raises(ValueError, match=r"depth_key=.*: must be a depth video whose info has video\.depth_min"):
        open_lerobot(sound, robot=replace(ARM, cameras=(front, ARM.cameras[1])))


def test_episodes_too_short_to_compare_are_still_checked(tmp_path, layout, cameras):
    from tests.data.conftest import make_episode
    from xwam.data.lerobot import DatasetWriter

    writer = DatasetWriter(tmp_path / "set", layout=layout, cameras=cameras, action_hz=20.0, robot_type="toy")
    for number in range(2):
        writer.write(make_episode(number, length=6))
    writer.finish()
    found = check_data(tmp_path / "set")
    assert not [finding for finding in found if finding.check == "reading"], found
    assert any("depth" in finding.check for finding in found)


def test_our_own_data_sets_need_no_robot_json(tmp_path, layout, cameras):
    from tests.data.conftest import make_episode
    from xwam.data.lerobot import DatasetWriter

    writer = DatasetWriter(tmp_path / "set", layout=layout, cameras=cameras, action_hz=20.0, robot_type="toy")
    for number in range(2):
        writer.write(make_episode(number))
    writer.finish()
    findings = check_data(tmp_path / "set")
    found = {finding.check: finding for finding in findings}
    assert found["frame counts"].level == found["NaN"].level == "fine"
    assert found["action 'left_position'"].level == "look", "these toy states do not follow their actions"


def test_our_own_with_an_unused_arm_before_the_used_one(tmp_path, layout, cameras):
    from tests.data.conftest import make_episode
    from xwam.data.lerobot import DatasetWriter

    two = two_arm_layout("toy")
    layout = replace(
        two, **{side: tuple(replace(part, is_used=part.name.startswith("right")) for part in getattr(two, side))
                for side in ("state", "action")},
    )  # fmt: skip
    still = replace(cameras[0], name="front")
    writer = DatasetWriter(tmp_path / "set", layout=layout, cameras=[still], action_hz=20.0, robot_type="toy")
    for number in range(2):
        episode = make_episode(number)
        state, action = np.roll(episode.state, 8, axis=1), np.roll(episode.action, 7, axis=1)
        state[1:, 8:11] = state[0, 8:11] + np.cumsum(action[:-1, 7:10], axis=0)
        films = {kind: {"front": getattr(episode, kind)["front"]} for kind in ("video", "depth")}
        writer.write(replace(episode, state=state, action=action, executed_action=None, **films))
    writer.finish()
    findings = {finding.check: finding for finding in check_data(tmp_path / "set")}
    assert findings["action 'right_position'"].level == "fine"
    assert "states follow it (correlation 1.00)" in findings["action 'right_position'"].text
    assert not any("left" in finding.text for finding in findings.values())


def test_a_long_film_by_another_clock_is_whole(planted):
    """Where an episode begins is said in the film's own seconds."""
    path, rate, first = video_of(planted, "cam_wrist", 1), Fraction(FPS * 1000, 1001), 2000
    frames = pictures(1)["cam_wrist"]
    write_rgb(path, np.concatenate([np.broadcast_to(frames[0], (first, *frames[0].shape)), frames]), rate)
    row = planted / "meta/episodes/chunk-000/file-001.parquet"
    table = pq.read_table(row)
    key = "videos/observation.images.cam_wrist/from_timestamp"
    begins = pa.array([float(first / rate)])
    pq.write_table(table.set_column(table.column_names.index(key), key, begins), row)
    seen = open_lerobot(planted, robot=ARM).frames(1, "wrist", np.arange(STEPS))
    assert np.abs(seen.astype(float) - frames).mean() < 12
    assert wrong(planted) == ""
    write_rgb(path, np.broadcast_to(frames[0], (first + STEPS - 1, *frames[0].shape)), rate)
    assert f"file-001.mp4 has {first + STEPS - 1} frames of {first + STEPS}" in wrong(planted)


def test_a_camera_that_no_sampled_episode_has_is_no_mistake(planted):
    for number in range(EPISODES):
        video_of(planted, "cam_wrist", number).unlink()
    robot = replace(ARM, cameras=(ARM.cameras[0], replace(ARM.cameras[1], may_be_missing=True)))
    assert "shows nothing" not in wrong(planted, robot)
    assert "missing cameras: wrist in" in looks(planted, robot)
