"""Every way between rotations has its inverse; quaternions keep w >= 0."""

import numpy as np

from xwam.robot import rotations
from xwam.robot.actions import apply_deltas, base_from_hand, deltas_between, integrate
from xwam.robot.layout import two_arm_layout


def random_quats(*shape: int) -> np.ndarray:
    quats = np.random.default_rng(0).normal(size=(*shape, 4))
    return rotations.positive_w(quats / np.linalg.norm(quats, axis=-1, keepdims=True))


def test_round_trips() -> None:
    quats = random_quats(50, 2)
    matrices = rotations.matrix_from_quat(quats)
    vectors = rotations.vector_from_matrix(matrices)
    assert matrices.shape == (50, 2, 3, 3)
    np.testing.assert_allclose(rotations.quat_from_matrix(matrices), quats, atol=1e-12)
    np.testing.assert_allclose(rotations.quat_from_vector(vectors), quats, atol=1e-12)
    np.testing.assert_allclose(rotations.matrix_from_vector(vectors), matrices, atol=1e-12)
    np.testing.assert_allclose(rotations.matrix_from_quat(-quats), matrices, atol=1e-12)
    np.testing.assert_allclose(
        matrices @ np.swapaxes(matrices, -1, -2), np.broadcast_to(np.eye(3), matrices.shape), atol=1e-12
    )


def test_meaning() -> None:
    quarter = np.array([0.0, 0.0, np.pi / 2])  # about z: x becomes y
    np.testing.assert_allclose(rotations.matrix_from_vector(quarter) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(rotations.quat_from_vector(quarter), [np.sqrt(0.5), 0, 0, np.sqrt(0.5)], atol=1e-12)
    assert (rotations.quat_from_vector(np.array([[0, 0, 3.5], [0, -4.0, 0]]))[:, 0] >= 0).all()


def test_deltas_and_poses() -> None:
    random = np.random.default_rng(1)
    positions, quats = random.normal(size=(10, 3)), random_quats(10)
    deltas = deltas_between(positions[:-1], quats[:-1], positions[1:], quats[1:])
    target_position, target_quat = apply_deltas(positions[:-1], quats[:-1], deltas)
    np.testing.assert_allclose(target_position, positions[1:], atol=1e-12)
    np.testing.assert_allclose(target_quat, quats[1:], atol=1e-12)
    followed, turned = integrate(positions[0], quats[0], deltas)
    np.testing.assert_allclose(followed, positions[1:], atol=1e-12)
    np.testing.assert_allclose(turned, quats[1:], atol=1e-12)
    np.testing.assert_allclose(deltas_between(positions, quats, positions, -quats), 0, atol=1e-12)
    # the turn is in the base frame: R_target R_current^T
    turn = rotations.matrix_from_vector(deltas[0, 3:])
    np.testing.assert_allclose(
        turn @ rotations.matrix_from_quat(quats[0]), rotations.matrix_from_quat(quats[1]), atol=1e-12
    )


def test_the_pose_of_a_hand() -> None:
    layout = two_arm_layout("toy")
    state = np.zeros((2, 16))
    state[:, 8:11] = [[1, 2, 3], [4, 5, 6]]
    state[:, 11:15] = random_quats(2)
    poses = base_from_hand(layout, state, "right")
    np.testing.assert_allclose(poses[:, :3, 3], state[:, 8:11])
    np.testing.assert_allclose(rotations.quat_from_matrix(poses[:, :3, :3]), state[:, 11:15], atol=1e-12)
    np.testing.assert_allclose(base_from_hand(layout, state[0], "right"), poses[0])
