import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from tests.sim.mujoco_sims import assert_asking_changes_nothing, assert_known, assert_same, muj_pose, our_pose, play
from xwam.sim.instructions import INSTRUCTIONS

pytest.importorskip("metaworld", reason="pip install 'xwam[sim]'")

from xwam.sim.metaworld import MARKED_GOALS, METAWORLD_LAYOUT, TASKS, VIEWS, instructions, make_metaworld
from xwam.sim.record import record_wandering
from xwam.sim.render import load_mujoco

SIZE = 64
MOVE = METAWORLD_LAYOUT.action_slice("left_position")
# All 50 tasks with XWAM_ALL_TASKS=1 (half a minute more).
SOME_TASKS = TASKS if os.environ.get("XWAM_ALL_TASKS") else TASKS[4::9]


@pytest.fixture(scope="module")
def env():
    env = make_metaworld("drawer-open-v3", width_px=SIZE, height_px=SIZE)
    yield env
    env.close()


def test_every_task_of_meta_world_has_its_own_words():
    from metaworld.env_dict import ENV_CLS_MAP

    assert set(TASKS) == set(ENV_CLS_MAP)
    assert set(MARKED_GOALS) <= set(TASKS)
    everything = [words for task in TASKS for words in instructions(task)]
    assert len(set(everything)) == len(everything), "two tasks share a wording: the policy could not tell them apart"
    assert all(3 <= len(words) <= 5 for words in INSTRUCTIONS.values())
    assert max(len(words.encode()) for words in everything) <= 62, "small text encoders would cut the end"


@pytest.mark.parametrize("task", SOME_TASKS)
def test_task_opens_moves_and_looks(task):
    env = make_metaworld(task, width_px=24, height_px=16)
    seen = play(env, 1, 1)
    assert set(seen.images) == set(env.cameras) == {"left", "right", "wrist"}
    assert all(image.shape == (16, 24, 3) and image.std() > 5 for image in seen.images.values())
    assert seen.instruction in instructions(task)
    assert seen.state[3] >= 0
    assert not seen.state[8:].any(), "the right arm is unused"
    env.close()


@pytest.mark.parametrize("task", ["button-press-topdown-v3", "bin-picking-v3", "handle-pull-side-v3"])
def test_expert_succeeds(task):
    env = make_metaworld(task, width_px=8, height_px=8)
    for seed in (1, 2):
        env.reset(seed)
        assert any(env.step(env.expert_action()) for _ in range(env.max_steps))
    env.close()


def test_what_is_known_before_a_task_is_opened_is_so(env):
    assert_known("metaworld", env)


def test_same_seed_same_episode(env):
    first = play(env, 3, 4)
    play(env, 8, 6)
    again = play(env, 3, 4)
    other = make_metaworld("drawer-open-v3", width_px=SIZE, height_px=SIZE)
    for second in (again, play(other, 3, 4)):
        assert_same(first, second)
    other.close()


def test_every_seed_is_another_placement(env):
    places = []
    for seed in [*range(55), 10**6, 2**40]:
        env.reset(seed)
        places.append(tuple(env._raw.obj_init_pos))
    assert len(set(places)) == 57, "Meta-World's own benchmark has only 50"


def test_asking_the_expert_changes_nothing(env):
    action = np.zeros(env.layout.action_width, np.float32)
    action[MOVE] = 0.02, -0.01, 0.03
    assert_asking_changes_nothing(env, env._raw.data, action)


def test_an_action_moves_the_command_by_its_metres(env):
    env.reset(0)
    before = env._raw.data.mocap_pos[0].copy()
    action = np.zeros(env.layout.action_width, np.float32)
    action[MOVE] = 0.02, -0.01, 1.0
    env.step(action)
    np.testing.assert_allclose(env._raw.data.mocap_pos[0] - before, [0.02, -0.01, env.max_delta_m], atol=1e-6)


@pytest.mark.parametrize("task", ["reach-v3", "pick-place-v3", "drawer-open-v3"])
def test_an_action_may_last_longer_and_moves_as_fast(task):
    env = make_metaworld(task, width_px=8, height_px=8, action_hz=10.0)
    assert (env.action_hz, env.max_delta_m, env.max_steps) == (10, 0.08, 62)
    for seed in (1, 2):
        env.reset(seed)
        assert any(env.step(env.expert_action()) for _ in range(env.max_steps))
    env.close()


def test_wandering_goes_far_and_stays_in_the_workspace(env):
    episodes = [record_wandering(env, seed) for seed in range(3)]
    places, (low, high) = np.concatenate([episode.state[:, :3] for episode in episodes]), env.workspaces[0]
    assert (places > low - 0.03).all()  # the hand lags behind its command, and swings a little
    assert (places < high + 0.03).all()
    assert np.ptp(places, axis=0).max() > 0.2
    assert not any(episode.success for episode in episodes)


def test_gripper_closes_and_opens(env):
    env.reset(0)
    action = np.zeros(env.layout.action_width, np.float32)
    opening = [env.state()[7]]
    for command in (1.0, -1.0):
        action[env.layout.action_slice("left_gripper")] = command
        for _ in range(8):
            env.step(action)
        opening.append(env.state()[7])
    assert opening[0] > 0.9
    assert opening[1] < 0.6
    assert opening[2] > 0.9


@pytest.mark.parametrize("num_steps", [0, 7, 14])
def test_camera_poses_are_mujocos_own(env, num_steps):
    seen = play(env, 2, num_steps)
    load_mujoco().mj_forward(env._raw.model, env._raw.data)
    for name in env.cameras:
        np.testing.assert_allclose(
            our_pose(env, name, seen.state), muj_pose(env._raw.data, VIEWS[name].mujoco_name), atol=1e-6
        )


def test_wrist_camera_is_rigid_to_the_hand(env):
    env.reset(2)
    poses = []
    for _ in range(10):
        env.step(env.expert_action())
        hand = env._raw.data.body("hand")
        base_from_hand = np.eye(4)
        base_from_hand[:3, :3], base_from_hand[:3, 3] = hand.xmat.reshape(3, 3), hand.xpos
        poses.append(np.linalg.inv(base_from_hand) @ muj_pose(env._raw.data, VIEWS["wrist"].mujoco_name))
    assert np.abs(env._raw.data.body("hand").xquat - [0.7071, 0, 0.7071, 0]).max() > 1e-3, "the hand does tilt"
    for one, two in pairwise(poses):
        np.testing.assert_allclose(one, two, atol=1e-9)


def test_depth_is_metric(env):
    """Against MuJoCo's own rays: under a millimetre, but for rays that graze an edge."""
    mujoco = load_mujoco()
    seen = play(env, 2, 10)
    shown = np.array([1, 1, 1, 0, 0, 0], np.uint8)
    hit = np.zeros(1, np.int32)
    for name, camera in env.cameras.items():
        pose, far, errors = our_pose(env, name, seen.state), 0, []
        for v in range(1, SIZE, 4):
            for u in range(1, SIZE, 4):
                ray = np.linalg.inv(camera.intrinsics) @ [u + 0.5, v + 0.5, 1.0]
                world = pose[:3, :3] @ ray
                length = np.linalg.norm(world)
                distance = mujoco.mj_ray(
                    env._raw.model, env._raw.data, pose[:3, 3], world / length, shown, 1, -1, hit
                ) / length  # fmt: skip
                if 0 < distance <= camera.far_m:
                    errors.append(abs(distance - seen.depth[name][v, u]))
                else:
                    far += 1
                    assert seen.depth[name][v, u] == 0, "nothing there, or too far: unknown"
        assert len(errors) > 100
        assert np.median(errors) < 1e-5
        assert np.mean(np.array(errors) < 1e-3) > 0.97, name


@pytest.mark.parametrize("task", ["reach-v3", "push-v3", "pick-place-v3"])
def test_the_goal_can_be_seen(task):
    env = make_metaworld(task, width_px=128, height_px=128)
    env.reset(4)
    seen = env.observe()
    for name in ("left", "right"):
        red, green, blue = seen.images[name].astype(int).transpose(2, 0, 1)
        assert (green > 1.8 * np.maximum(red, blue)).sum() >= 12, name
    env.close()


def test_two_simulators_do_not_disturb_each_other(env):
    first = play(env, 6, 2)
    other = make_metaworld("door-open-v3", width_px=40, height_px=48)
    play(other, 0, 1)
    again = env.observe()
    other.close()
    last = env.observe()
    for name in env.cameras:
        np.testing.assert_array_equal(first.images[name], again.images[name])
        np.testing.assert_array_equal(first.depth[name], last.depth[name])


def test_episodes_have_no_hidden_end(env):
    env.reset(0)
    assert env._raw.curr_path_length == 0, "the simulator still counts under this name"
    env._raw.curr_path_length = 100_000
    env.step(np.zeros(env.layout.action_width, np.float32))


def test_bad_input_is_refused(env):
    with pytest.raises(ValueError, match="did you mean 'drawer-open-v3'"):
        make_metaworld("drawer-opn-v3")
    with pytest.raises(ValueError, match="task='drawer'"):
        instructions("drawer")
    with pytest.raises(ValueError, match="width_px=0"):
        make_metaworld("drawer-open-v3", width_px=0)
    for wrong in (30.0, 15.0, 0.0, -20.0, 100.0):
        with pytest.raises(ValueError, match=f"action_hz={wrong:g}: .*choose 80, 40, 20, 16, 10, 8"):
            make_metaworld("drawer-open-v3", action_hz=wrong)
    with pytest.raises(ValueError, match="seed=-1"):
        env.reset(-1)
    env.reset(0)
    with pytest.raises(ValueError, match="needs 14 slots"):
        env.step(np.zeros(7, np.float32))
    with pytest.raises(ValueError, match="not finite"):
        env.step(np.full(14, np.nan, np.float32))
    fresh = make_metaworld("drawer-open-v3", width_px=8, height_px=8)
    with pytest.raises(ValueError, match="reset"):
        fresh.step(np.zeros(14, np.float32))
    with pytest.raises(ValueError, match="reset"):
        fresh.expert_action()
    with pytest.raises(ValueError, match="reset"):
        fresh.observe()
    fresh.close()


def run_python(code, **variables):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | variables, check=False
    )


def test_a_missing_opengl_says_what_to_install():
    answer = run_python(
        "from xwam.sim.metaworld import make_metaworld; make_metaworld('reach-v3')",
        MUJOCO_GL="osmesa",
        PYOPENGL_PLATFORM="egl",
    )
    assert "MUJOCO_GL='osmesa' does not work" in answer.stderr
    assert "apt-get install -y libosmesa6" in answer.stderr


def test_a_missing_meta_world_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "metaworld.env_dict", None)
    with pytest.raises(ImportError, match=r"pip install 'xwam\[sim\]'"):
        make_metaworld("reach-v3")


def test_importing_is_light():
    answer = run_python(
        "import sys, xwam.sim.collect, xwam.sim.rollout, xwam.sim.worker; "
        "assert not {'torch', 'mujoco', 'metaworld', 'robosuite', 'gymnasium'} & set(sys.modules)"
    )
    assert answer.returncode == 0, answer.stderr
