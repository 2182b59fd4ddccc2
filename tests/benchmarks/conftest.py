"""Data of the simulator in numpy, and a run of the debug preset on them, once for all benchmarks."""

import pytest

from tests.sim.fake_env import make_fake
from xwam.sim.collect import collect
from xwam.train.options import Sources
from xwam.train.pipeline import run_pipeline
from xwam.train.vae import ClipShape, VaeTraining

VAE = VaeTraining(
    shapes=(ClipShape(32, 5, 2, 1),), num_steps=2, learning_rate=1e-3, num_warmup_steps=1, kl_weight=1e-4,
    frame_stride=4, max_gradient_norm=1.0, ema_decay=0.9, seed=0, save_every=10,
)  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """``root/data``, ``root/run`` and the run's last checkpoint: two steps, batches of two."""
    root = tmp_path_factory.mktemp("benchmarks")
    collect(root / "data", ["fake-reach"], 4, num_workers=1, width_px=32, height_px=32, make_env=make_fake)
    changes = {"num_steps": 2, "validate_every": 0}
    last = run_pipeline("debug", root / "data", root / "run", changes, vae=VAE, sources=Sources(every=16))
    return root, last
