"""One of the torchrun processes of test_cluster.py: ``processes.py FOLDER first|second|copies``."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from safetensors.torch import save_file

from tests.train.encoded import EncodedClips
from tests.train.test_loop import CONFIG, make_run
from xwam.train import checkpoint, loop, saving
from xwam.train.options import Setup

FOUR = replace(CONFIG, train=replace(CONFIG.train, batch_size=4, save_every=2))
TUNED = replace(FOUR, train=replace(FOUR.train, num_steps=3, validate_every=3))
CLIPS = EncodedClips(FOUR, size=7)
SHARDED = Setup(shards=0, accumulate=2, recompute=True)
COPIES = Setup(shards=2)
LORA = Setup(shards=0, lora_rank=2, recompute=True)


class DiesInTheMiddle(saving.HuggingFaceStorageWriter):
    """Writes its tensors; then, before the checkpoint of step 6 is whole, kill -9."""

    def finish(self, metadata, results):
        assert list(Path(self.path).glob("*.safetensors")), "nothing was written yet: not the middle"
        if ".tmp-step-0000006" in str(self.path):
            os.kill(os.getpid(), signal.SIGKILL)
        super().finish(metadata, results)


def first(folder: Path) -> None:
    """Replicas to the end; then shards, until the first process dies while it saves step 6."""
    loop.train(FOUR, CLIPS, make_run(folder, "replicas"))
    saving.HuggingFaceStorageWriter = DiesInTheMiddle
    loop.train(FOUR, CLIPS, make_run(folder, "shards"), how=SHARDED)


def validation_of(run: loop.Run) -> loop.Validate | None:
    """What the pipeline gives the loop: something on the main process alone. It keeps the weights that it was shown."""

    def validate(average, now):
        assert checkpoint.newest_checkpoint(run.out).name == f"step-{now:07d}", "what was due is saved"
        save_file(average, run.out / f"shown-{now}.safetensors")
        return {"weights": float(len(average))}

    return validate if os.environ["RANK"] == "0" else None


def second(folder: Path) -> None:
    """Shards to the end, from what one process left; then LoRA on shards, and shards in bf16. Two are validated."""
    shards, lora = make_run(folder, "shards"), make_run(folder, "lora")
    loop.train(FOUR, CLIPS, shards, how=SHARDED, validate=validation_of(shards))
    start = folder / "replicas" / "step-0000008"
    loop.train(TUNED, CLIPS, lora, how=LORA, start=start, validate=validation_of(lora))
    loop.train(TUNED, CLIPS, make_run(folder, "bf16"), how=Setup(shards=0, precision="bfloat16"), start=start)


def copies(folder: Path) -> None:
    """Two copies of the weights, each spread over two of four processes."""
    loop.train(FOUR, CLIPS, make_run(folder, "copies"), how=COPIES)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"first": first, "second": second, "copies": copies}[sys.argv[2]](Path(sys.argv[1]))
