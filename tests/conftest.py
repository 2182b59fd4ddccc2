"""For all tests: one thread, so that sums are always added in the same order and "the same bits" can be asked for.

With several threads the matrix library splits the work by how busy the machine is.
"""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # read when torch is imported, here and in processes of the tests
    os.environ[name] = "1"

import torch  # noqa: E402

torch.set_num_threads(1)
