"""A server with fewer bits answers almost as one with all of them."""

import numpy as np
import pytest

from tests.serve.conftest import Running, ask
from xwam.serve.service import ServeConfig, load_service

pytest.importorskip("torchao", reason="pip install 'xwam[quantize]'")


def test_a_quantised_server_answers_almost_the_same(served_folder, policy):
    config = ServeConfig(max_batch=2)
    answers = {}
    for kind in (None, "int8-weights"):
        with Running(load_service(served_folder, config, quantize=kind)) as server, server.robot() as robot:
            answers[kind] = ask(robot, seed=3)["actions"]
    exact, found = answers[None], answers["int8-weights"]
    spread = policy.normalizer.denormalize_action(np.ones_like(exact)) - policy.normalizer.denormalize_action(
        -np.ones_like(exact)
    )
    assert not np.array_equal(found, exact), "nothing was quantised"
    assert np.abs(found - exact).max() < 0.05 * np.abs(spread).max()


def test_an_unknown_kind_is_refused_before_anything_is_served(served_folder):
    with pytest.raises(ValueError, match="int8-dynamic"):
        load_service(served_folder, ServeConfig(), quantize="int4")
