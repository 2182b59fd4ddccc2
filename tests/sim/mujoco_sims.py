"""What both MuJoCo simulators must answer alike, for their tests."""

import numpy as np

from xwam.robot.actions import base_from_hand
from xwam.sim.simulators import robot_of, simulator_named
from xwam.sim.views import OPENCV_FROM_OPENGL


def play(env, seed, num_steps):
    env.reset(seed)
    for _ in range(num_steps):
        env.step(env.expert_action())
    return env.observe()


def muj_pose(data, camera):
    """Where MuJoCo's own camera is, as ours look."""
    there = data.cam(camera)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = there.xmat.reshape(3, 3), there.xpos
    return pose @ OPENCV_FROM_OPENGL


def our_pose(env, name, state):
    camera = env.cameras[name]
    if camera.base_from_camera is not None:
        return camera.base_from_camera
    return base_from_hand(env.layout, state.astype(np.float64), camera.hand) @ camera.hand_from_camera


def assert_same(first, second):
    """Two observations, to the bit."""
    np.testing.assert_array_equal(first.state, second.state)
    assert first.instruction == second.instruction
    assert set(first.images) == set(second.images)
    for name in first.images:
        np.testing.assert_array_equal(first.images[name], second.images[name])
        np.testing.assert_array_equal(first.depth[name], second.depth[name])


def assert_known(simulator, env):
    """What sim/simulators.py says of a task, without opening it."""
    robot = robot_of(simulator, env.task)
    assert (robot.layout, robot.action_hz, robot.cameras) == (env.layout, env.action_hz, tuple(env.cameras))
    assert simulator_named(simulator).max_steps == env.max_steps


def assert_asking_changes_nothing(env, data, action):
    """Neither where things are nor how they move; ``data``: MuJoCo's."""
    states = []
    for asked in (False, True):
        env.reset(5)
        for _ in range(6):
            if asked:
                env.expert_action()
            env.step(action)
        states.append(np.concatenate([data.qpos, data.qvel]))
    np.testing.assert_array_equal(*states)
