"""A start's autoencoder keeps the pictures it was trained on, and others less well."""

from pathlib import Path

import pytest
import torch

from xwam.config import Config
from xwam.model.vae import VideoVae
from xwam.sim.collect import Recording, collect
from xwam.strict_json import load
from xwam.train.sources import clips_of, open_sources
from xwam.train.vae_quality import ENOUGH_DB, kept_db, warn_of_lost_pictures

CHECKPOINT = Path(__file__).parents[2] / "checkpoints/tiny"


def test_the_shipped_autoencoder_keeps_its_own_pictures_and_not_noise(tmp_path, recwarn):
    pytest.importorskip("metaworld")
    config = load(Config, CHECKPOINT / "config.json")
    collect(tmp_path / "data", ["reach-v3"], 1, Recording(width_px=128, height_px=128), num_workers=1, seed=50_000)
    sources = open_sources([tmp_path / "data"], (), ())
    warn_of_lost_pictures(config, sources, CHECKPOINT, torch.device("cpu"))
    assert not [warning for warning in recwarn if "autoencoder" in str(warning.message)]
    clips, vae = clips_of(sources[0], config), VideoVae.load(CHECKPOINT / "vae")
    assert kept_db(vae, clips, torch.device("cpu")) > ENOUGH_DB + 2
    for weight in vae.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    assert kept_db(vae, clips, torch.device("cpu")) < ENOUGH_DB
