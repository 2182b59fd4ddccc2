"""The verb that measures speed."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from xwam.cli.options import torch_dtype
from xwam.config import Dtype, Quantization


def bench(
    subject: Annotated[str, Positional],
    device: str = "cpu",
    precision: Dtype = "float32",
    quantize: Quantization | None = None,
    compile: bool = False,
    actions_only: bool = False,
    repeats: int = 20,
    seconds: float = 30.0,
    threads: int | None = None,
    seed: int = 0,
    limit_at: float | None = None,
    json: Path | None = None,
) -> None:
    """Per-stage table of one request: times, exact operation counts, share of this machine's matrix rate.

    Args:
        subject: a checkpoint folder, or the name of a preset (random weights).
        device: cpu, cuda, …
        precision: of the weights of transformer and decoder.
        quantize: fewer bits for the blocks (needs torchao).
        compile: compile first, and say what the warm-up cost.
        actions_only: leave the world out.
        repeats: samples of each stage, at most.
        seconds: wall-clock seconds for each stage, about.
        threads: CPU threads; by default torch's own choice.
        seed: of random weights and noise.
        limit_at: run nothing; say what the arithmetic alone takes at so many TFLOP/s.
        json: write every sample there.
    """
    from xwam.bench import operations, report

    if limit_at is not None:
        from xwam.presets import preset

        if quantize or compile or actions_only or threads or json:
            raise ValueError(
                "--limit-at runs nothing: --quantize, --compile, --actions-only, --threads, --json do not go with it."
            )
        config = preset(subject)
        print(report.limits(config, operations.count_operations(config), limit_at * 1e12))
        return
    import torch

    from xwam.bench.stages import Plan, run_bench
    from xwam.bench.subject import open_subject

    if threads is not None:
        torch.set_num_threads(threads)
    policy = open_subject(subject, device=device, dtype=torch_dtype(precision), seed=seed)
    if quantize is not None:
        from xwam.quantize import quantized

        quantized(policy, quantize)
    measured = run_bench(subject, policy, Plan(repeats, seconds, not actions_only, compile, seed))
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(report.to_json(measured))
    print(report.markdown(measured))
