"""Depth as further views: what is given, what counts, and what a batch looks like."""

from dataclasses import replace

import torch

from tests.train.encoded import EncodedClips
from xwam.config import Config
from xwam.denoise.losses import loss_terms
from xwam.denoise.noise import depth_apart, keep_given, observed
from xwam.model.tokens import CLEAN_LEVEL, VIDEO_LEVEL, Grid, token_levels
from xwam.presets import preset
from xwam.strict_json import from_json, to_json
from xwam.tensors import Noisy
from xwam.train import step
from xwam.train.cached import depth_as_views
from xwam.train.options import Setup
from xwam.train.peers import Peers
from xwam.train.state import make_state

PLAIN = preset("debug")
CONFIG = replace(PLAIN, model=replace(PLAIN.model, num_views=6, num_depth_blocks=0))


def test_twice_the_views_without_a_branch_is_depth_as_views():
    assert CONFIG.depth_is_views
    assert not PLAIN.depth_is_views
    assert from_json(Config, to_json(CONFIG)) == CONFIG


def test_the_first_frame_is_given_of_the_cameras_alone():
    given = observed(CONFIG, torch.device("cpu"))
    one, zero = (Noisy(*(torch.full(s, v) for s in ((2, 4, 2, 6, 2, 2), (2, 5, 16), (2, 16, 14)))) for v in (1.0, 0.0))
    kept = keep_given(zero, one, given).video
    assert (kept[:, :, 0, :3] == 1).all()
    assert kept.sum() == kept[:, :, 0, :3].sum(), "neither depth nor later frames"
    levels = token_levels(Grid(2, 6, 1, 1, 16, 5), given.frames, 1, 0, torch.device("cpu"))
    assert levels[0, :12].tolist() == [CLEAN_LEVEL] * 3 + [VIDEO_LEVEL] * 9


def test_depth_as_views_trains_as_video_with_its_first_frame():
    batch = depth_as_views(EncodedClips(PLAIN, size=2).batch(torch.arange(2).numpy(), 0))
    assert torch.equal(batch.video[:, :, :, 3:], batch.depth)
    batch.video_mask[:, :, 3] = False  # as where one camera has no depth
    drawn = step.draw(batch, CONFIG, step.generator_for(0, 0))
    state = make_state(CONFIG, Setup(), Peers(0, 1), torch.device("cpu"), None)
    predicted = step.predict(state.model, batch, drawn, torch.zeros(24, 16))
    terms = loss_terms(predicted, batch, drawn)
    frames, numbers = batch.video.shape[2], batch.video[0, :, 0, 0].numel()
    assert set(terms) == {"video", "state", "action"}
    assert terms["video"].count == 2 * numbers * (3 * (frames - 1) + 2 * frames)
    cameras, depth = depth_apart(predicted.video, predicted.depth, CONFIG)
    assert cameras.shape == depth.shape == batch.depth.shape
