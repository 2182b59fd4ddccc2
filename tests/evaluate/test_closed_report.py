"""The closed-loop report: counts all episodes, plays three again with the same seeds, and holds them in 4D."""

import json
import re
from dataclasses import asdict, replace

import pytest

from tests.examples import make_normalizer
from tests.sim.fake_env import make_fake
from tests.view.scene import LAYOUT, make_imagined, make_real
from xwam.evaluate.closed_loop import ClosedLoopConfig, EpisodeResult, summarize
from xwam.evaluate.closed_report import write_closed_report
from xwam.evaluate.report_episode import page_of
from xwam.model.text import TextEncoder
from xwam.model.vae import VideoVae
from xwam.model.xwam import XWAM
from xwam.policy import Networks, Policy
from xwam.presets import preset

CONFIG = ClosedLoopConfig(
    tasks=("fake-reach", "fake-never"), num_episodes=2, seed=0, replan_every=8, max_steps=16, num_envs=1
)


def make_policy(num_depth_blocks=None, **changed):
    """Random weights: it acts and imagines, badly."""
    config = preset("debug")
    config = replace(config, denoise=replace(config.denoise, num_video_steps=2, num_action_steps=1), **changed)
    if num_depth_blocks is not None:
        config = replace(config, model=replace(config.model, num_depth_blocks=num_depth_blocks))
    networks = Networks(
        XWAM(config.model), VideoVae(config.vae), lambda: TextEncoder(config.text, config.model.text_length)
    )
    return Policy(config, make_normalizer(), {}, networks)


@pytest.fixture
def policy():
    return make_policy()


@pytest.fixture(scope="module")
def numbers():
    """What ``evaluate_closed_loop`` writes: one success, three failures."""
    rows = [
        EpisodeResult(task=task, seed=seed, success=success, num_steps=steps, action_seconds=0.2, waits=(0.1, 0.3))
        for task, seed, success, steps in (
            ("fake-never", 4, False, 16), ("fake-reach", 5, True, 9),
            ("fake-never", 6, False, 16), ("fake-reach", 7, False, 16),
        )
    ]  # fmt: skip
    settings = json.loads(json.dumps(asdict(CONFIG)))
    return json.loads(json.dumps({"settings": settings, **summarize(rows), "episodes": [asdict(row) for row in rows]}))


def test_three_episodes_are_played_again_and_shown(tmp_path, policy, numbers):
    opened, asked = [], []

    def make_env(task, **size):
        env = make_fake(task, **size)
        reset = env.reset
        env.reset = lambda seed: (opened.append((task, seed)), reset(seed))[1]
        return env

    predict = policy.predict
    policy.predict = lambda seen, *, seed, **more: (
        asked.append((seed, seen.images["left"])),
        predict(seen, seed=seed, **more),
    )[1]
    write_closed_report(tmp_path / "report.html", policy, CONFIG, numbers, make_env)
    assert opened == [("fake-reach", 5), ("fake-never", 6), ("fake-reach", 7)], "the best, the median, the worst"
    assert [seed for seed, _ in asked] == [5000, 5001, 6000, 6001, 7000, 7001], "seeds of the evaluation"
    text = (tmp_path / "report.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert "1 <small>of 4</small>" in text
    assert "median of 8 decisions" in text
    assert "ms until the actions" in text
    assert "Compute time until the actions; dashed: the median." in text
    assert "video, depth and states; over the 3 episodes below" in text
    assert "How fast the images decay (static cameras). Over the 3 episodes below." in text
    assert re.search(r"Image, PSNR<b>[^/]*/small></b><span class=.faint.>last frame copied: [\d.]+; over the 3", text)
    assert text.count('type="application/gzip"') == 3
    assert "How fast the images decay" in text
    assert "Best of 4 (played again: another end): fake-reach" in text, "random weights do not solve what was noted"
    assert "Worst of 4: fake-reach" in text

    asked.clear()
    blind = replace(CONFIG, is_blind=True, num_envs=3)
    write_closed_report(tmp_path / "blind.html", policy, blind, numbers, make_fake)
    assert all((image == 127).all() for _, image in asked)
    text = (tmp_path / "blind.html").read_text()
    assert "Compute time of a batch of up to 3; dashed: the median." in text
    assert "median of 8 decisions; compute time of a batch of up to 3" in text


def test_a_checkpoint_without_depth_is_reported_without_pages(tmp_path, numbers):
    write_closed_report(tmp_path / "report.html", make_policy(num_depth_blocks=0), CONFIG, numbers, make_fake)
    text = (tmp_path / "report.html").read_text()
    assert "Worst of 4: fake-reach" in text
    assert "imagined" in text
    assert 'type="application/gzip"' not in text


def test_a_checkpoint_that_only_acts_is_reported_without_worlds(tmp_path, numbers):
    write_closed_report(tmp_path / "report.html", make_policy(modes=("policy",)), CONFIG, numbers, make_fake)
    text = (tmp_path / "report.html").read_text()
    assert "Worst of 4: fake-reach" in text
    assert "Only actions were asked for" in text


def test_a_world_of_far_depth_alone_has_no_page(tmp_path):
    real = make_real(num_steps=3, size=32)
    imagined = make_imagined(real)
    page = tmp_path / "world.html"
    assert page_of(page, replace(imagined, depth=0 * imagined.depth), LAYOUT, real=real, title="far") is None
    assert not page.exists()
    assert page_of(page, imagined, LAYOUT, real=replace(real, depth=None), title="near") == page
    assert "near" in page.read_text()
