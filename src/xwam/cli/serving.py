"""The verb that lets robots ask over the network: serve."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from xwam.cli.options import Steps, torch_dtype
from xwam.config import Dtype, Quantization


def serve(
    checkpoint: Annotated[Path, Positional],
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "cpu",
    precision: Dtype = "float32",
    compile: bool = False,
    quantize: Quantization | None = None,
    robot: str | None = None,
    steps: Annotated[Steps, arg(name="")] = Steps(),  # noqa: B008 (frozen)
    actions_only: bool = False,
    max_queue: int = 32,
    max_batch: int = 8,
    batch_window_ms: float = 5.0,
    max_connections: int = 64,
    api_key_file: Path | None = None,
) -> None:
    """Answer robots over a websocket (openpi's protocol and more); GET /healthz and /metrics on the same port.

    Args:
        checkpoint: a checkpoint folder.
        host: where to listen; 0.0.0.0 opens it to the network: then use --api-key-file, and TLS in front.
        port: where to listen.
        device: cpu, cuda, …
        precision: of the weights of transformer and decoder.
        compile: compile every shape before the first robot (half a minute for each batch size 1, 2, 4, …).
        quantize: fewer bits for the blocks (needs torchao).
        robot: which one, when the checkpoint learned from several.
        steps: denoising steps of an answer.
        actions_only: leave the depth branch and the VAE's decoder on disk; worlds are refused.
        max_queue: unfinished requests of all robots; beyond it new ones are refused at once.
        max_batch: requests computed together; 1 switches batching off.
        batch_window_ms: how long a request waits for others to share its batch.
        max_connections: robots connected at a time.
        api_key_file: a file with the key that robots must send as "Authorization: Api-Key KEY".
    """
    import asyncio
    import logging

    try:
        from xwam.serve.server import run
    except ModuleNotFoundError as error:
        advice = "pip install ./packages/xwam-client '.[serve]', in a checkout"
        raise ValueError(f"{error.name} is not installed: {advice}") from error
    from xwam.serve.service import ServeConfig, load_service
    from xwam.serve.wire import read_key

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    api_key = None if api_key_file is None else read_key(api_key_file)
    if api_key is None and host not in ("127.0.0.1", "::1", "localhost"):
        logging.getLogger("xwam.serve").warning("host=%s without --api-key-file: anybody there may use it.", host)
    limits = {"max_queue": max_queue, "max_batch": max_batch, "max_connections": max_connections}
    config = ServeConfig(**limits, batch_window_ms=batch_window_ms, is_compiled=compile)
    service = load_service(
        checkpoint, config, device=device, dtype=torch_dtype(precision), quantize=quantize,
        with_world=not actions_only, robot=robot, **vars(steps),
    )  # fmt: skip
    asyncio.run(run(service, host, port, api_key=api_key))
