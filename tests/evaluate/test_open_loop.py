"""Which clips the open loop judges; tests/test_walkthrough.py has the rest of it."""

import json

from xwam.evaluate.open_loop import evaluate_open_loop
from xwam.policy import load_policy


def test_clips_are_drawn_by_the_seed_from_all_that_are_held_out(trained, tmp_path):
    root, last = trained
    policy, chosen = load_policy(last), []
    for seed in (0, 1):
        out = tmp_path / f"{seed}.json"
        evaluate_open_loop(policy, root / "data", num_clips=2, seed=seed, out=out, has_report=False)
        chosen.append([row["index"] for row in json.loads(out.read_text())["clips"]])
    assert chosen[0] != chosen[1]
    assert [0, 1] not in chosen, "the first clips are neighbours"
