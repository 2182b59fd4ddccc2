import math

import pytest
import torch

from xwam.model.rope import Rotation, angles, positions, rotate, rotation
from xwam.model.tokens import Grid
from xwam.presets import preset

GRID = Grid(frames=3, views=2, rows=2, columns=3, actions=32, states=9)


def test_video_tokens_sit_at_frame_row_column_in_every_view():
    video = positions(GRID, 4, 4)[: 3 * 2 * 2 * 3].reshape(3, 2, 2, 3, 3)
    assert video[2, 1, 1, 2].tolist() == [2, 1, 2]
    assert torch.equal(video[:, 0], video[:, 1])


@pytest.mark.parametrize("actions_per_frame", [2, 4])
def test_state_j_and_the_actions_after_it_stand_where_video_frame_j_stands(actions_per_frame):
    position = positions(GRID, 4, actions_per_frame)[36:]
    action, state = position[:32], position[32:]
    for j in range(9):
        assert state[j].tolist() == [j / 4, 0, 0]
        if j * actions_per_frame < 32:
            assert action[j * actions_per_frame].tolist() == state[j].tolist()
    assert action[1, 0] == 1 / (4 * actions_per_frame)


@pytest.mark.parametrize("head_width", [16, 24, 48, 64, 128])
def test_every_pair_has_an_angle_and_time_owns_what_space_leaves(head_width):
    time, space = (angles(torch.eye(3, dtype=torch.float64)[[axis]], head_width)[0] != 0 for axis in (0, 1))
    assert len(time) == head_width // 2
    assert int(space.sum()) == head_width // 6
    assert int(time.sum()) == head_width // 2 - 2 * (head_width // 6)


def test_rotating_neighbours_is_multiplying_complex_numbers():
    x = torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(0))
    angle = torch.linspace(0, 2 * math.pi, 20).view(5, 4)
    expected = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.polar(torch.ones(5, 1, 4), angle[:, None])
    found = rotate(x, Rotation(angle.cos(), angle.sin()))
    torch.testing.assert_close(found, torch.view_as_real(expected).flatten(-2))
    torch.testing.assert_close(rotate(found, Rotation(angle.cos(), -angle.sin())), x)


def test_attention_sees_distances_only():
    config = preset("debug").model
    turn = rotation(Grid(6, 1, 1, 1, 1, 1), config, torch.device("cpu"))
    query, key = torch.randn(2, 1, 1, 1, config.width // config.num_heads, generator=torch.Generator().manual_seed(1))
    rows = rotate(query.expand(1, 8, 1, -1), turn), rotate(key.expand(1, 8, 1, -1), turn)
    products = torch.einsum("blnk,bmnk->lm", *rows)[:6, :6]
    torch.testing.assert_close(products[0, 2], products[3, 5])
    assert not torch.isclose(products[0, 2], products[0, 3])


def test_a_table_is_built_once_and_serves_training_after_inference():
    config, grid = preset("debug").model, Grid(1, 1, 1, 7, 2, 1)
    with torch.inference_mode():
        first = rotation(grid, config, torch.device("cpu"))
    assert rotation(grid, config, torch.device("cpu")).cos is first.cos
    x = torch.randn(1, 10, 1, 16, requires_grad=True)
    rotate(x, rotation(grid, config, torch.device("cpu"))).sum().backward()
    assert x.grad is not None
