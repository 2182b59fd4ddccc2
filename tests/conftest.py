"""For all tests: one thread, so that sums are always added in the same order and "the same bits" can be asked for.

With several threads the matrix library splits the work by how busy the machine is. And one small trained checkpoint.
"""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # read when torch is imported, here and in processes of the tests
    os.environ[name] = "1"

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """``root/data``, ``root/run`` and the run's last checkpoint: two steps, batches of two."""
    from tests.examples import SHORT_VAE
    from tests.sim.fake_env import make_fake
    from xwam.sim.collect import Recording, collect
    from xwam.train.options import Sources
    from xwam.train.pipeline import run_pipeline

    root = tmp_path_factory.mktemp("benchmarks")
    collect(root / "data", ["fake-reach"], 4, Recording(width_px=32, height_px=32, make_env=make_fake), num_workers=1)
    changes = {"num_steps": 2, "validate_every": 0}
    last = run_pipeline("debug", root / "data", root / "run", changes, vae=SHORT_VAE, sources=Sources(every=16))
    return root, last
