"""Several processes: the same losses as one, a kill in the middle of a save, another number of processes."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.train.encoded import EncodedClips
from tests.train.processes import CLIPS, FOUR, LORA, TUNED
from tests.train.test_loop import log_of, losses_of, make_run
from xwam.train import checkpoint, export, loop
from xwam.train.options import Setup
from xwam.train.peers import Peers, check_batch

pytestmark = pytest.mark.timeout(900)  # two runs of several processes in one fixture
TORCHRUN = (  # on the loopback interface, at a port that is free
    "-m", "torch.distributed.run",
    "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1",
)  # fmt: skip


def run_many(folder: Path, phase: str, processes: int = 2) -> subprocess.CompletedProcess:
    script = Path(__file__).with_name("processes.py")
    return subprocess.run(
        [sys.executable, *TORCHRUN, f"--nproc-per-node={processes}", str(script), str(folder), phase],
        capture_output=True, text=True, timeout=280, cwd=Path(__file__).parents[2],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"}, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two processes until one dies in the middle of a save; one process; two processes to the end."""
    root = tmp_path_factory.mktemp("cluster")
    loop.train(FOUR, CLIPS, make_run(root, "one"))
    died = run_many(root, "first")
    assert died.returncode != 0
    assert "SIGKILL" in died.stderr, died.stderr[-3000:]
    shards = make_run(root, "shards")
    assert checkpoint.newest_checkpoint(shards.out).name == "step-0000004", "the last whole one"
    assert (shards.out / ".tmp-step-0000006").is_dir(), "the half-written one has no name"

    class Interrupted(EncodedClips):
        def batch(self, indices, visit):
            if len(losses_of(shards)) == steps_before + 1 and not interrupted:
                interrupted.append(True)  # once: a batch of two passes asks twice, and a second Ctrl-C does not save
                os.kill(os.getpid(), signal.SIGINT)
            return super().batch(indices, visit)

    steps_before, interrupted = len(losses_of(shards)), []
    with pytest.raises(KeyboardInterrupt):
        loop.train(FOUR, Interrupted(FOUR, size=7), shards)  # one process, one piece: steps 5 and 6
    assert checkpoint.newest_checkpoint(shards.out).name == "step-0000006"
    done = run_many(root, "second")
    assert done.returncode == 0, done.stderr[-4000:]
    return root


def assert_same_losses(got: list[dict], expected: list[dict]) -> None:
    for row in got:
        right = expected[row["step"] - 1]
        for name in (n for n in right if n.startswith("loss/") or n == "gradient_norm"):
            assert row[name] == pytest.approx(right[name], rel=1e-5, abs=1e-7), f"step {row['step']} {name}"


@pytest.mark.parametrize("name", ["replicas", "shards"])
def test_many_processes_train_as_one(folder, name):
    expected, got = losses_of(make_run(folder, "one")), losses_of(make_run(folder, name))
    assert {row["step"] for row in got} == set(range(1, 9))
    if name == "shards":
        assert [row["step"] for row in got] == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8], "two, killed; one; two"
    assert_same_losses(got, expected)


def test_the_exported_weights_are_those_of_one_process(folder, tmp_path):
    exported = {}
    for name in ("one", "shards"):
        export.export_policy(folder / name / "step-0000008", tmp_path / name, dtype=torch.float32)
        exported[name] = checkpoint.load_file(tmp_path / name / "model.safetensors")
    assert not (folder / "shards" / "step-0000008" / "model.safetensors").exists(), "it was put together from pieces"
    for name, value in exported["one"].items():
        torch.testing.assert_close(exported["shards"][name], value, rtol=1e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize(("name", "last"), [("shards", 8), ("lora", 3)])
def test_shards_are_put_together_to_be_validated(folder, tmp_path, name, last):
    run = make_run(folder, name)
    (row,) = [row for row in log_of(run) if "validation/weights" in row]
    export.export_policy(run.out / f"step-{last:07d}", tmp_path / name, dtype=torch.float32)
    shown, saved = (
        checkpoint.load_file(path)
        for path in (run.out / f"shown-{last}.safetensors", tmp_path / name / "model.safetensors")
    )
    assert row == {"step": last, "validation/weights": len(saved)}
    assert shown.keys() == saved.keys()
    assert all(torch.equal(shown[name], value) for name, value in saved.items())


def test_copies_of_shards_train_as_one_process(folder, tmp_path):
    """HSDP: four processes, every weight in two pieces, every piece twice."""
    done = run_many(folder, "copies", processes=4)
    assert done.returncode == 0, done.stderr[-4000:]
    run = make_run(folder, "copies")
    assert_same_losses(losses_of(run), losses_of(make_run(folder, "one")))
    for name in ("one", "copies"):
        export.export_policy(folder / name / "step-0000008", tmp_path / name, dtype=torch.float32)
    one, copies = (checkpoint.load_file(tmp_path / name / "model.safetensors") for name in ("one", "copies"))
    for name, value in one.items():
        torch.testing.assert_close(copies[name], value, rtol=1e-4, atol=2e-5, msg=name)


def test_lora_and_bf16_on_shards(folder):
    start = folder / "replicas" / "step-0000008"
    alone = make_run(folder, "lora-one")
    loop.train(TUNED, CLIPS, alone, how=replace(LORA, shards=1), start=start)
    assert_same_losses(losses_of(make_run(folder, "lora")), losses_of(alone))
    exact = losses_of(make_run(folder, "lora"))[0]
    rounded = losses_of(make_run(folder, "bf16"))[0]
    for name in ("loss/video", "loss/depth"):
        assert rounded[name] == pytest.approx(exact[name], rel=0.02)
        assert rounded[name] != exact[name], "bf16 was not used"


def test_a_batch_that_does_not_divide_is_refused():
    assert check_batch(32, Peers(0, 4), Setup(accumulate=2)) == 4
    with pytest.raises(ValueError, match=r"batch_size=32 .* 3 processes"):
        check_batch(32, Peers(0, 3), Setup())
    with pytest.raises(ValueError, match="shards=3: must divide"):
        check_batch(32, Peers(0, 4), Setup(shards=3))
