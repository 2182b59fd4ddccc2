"""Latency and throughput of the server for 1, 4 and 16 robots, with and without batching, on loopback.

    PYTHONPATH=. python benchmarks/serve_load.py checkpoints/tiny

Every robot is a thread with its own connection that asks for actions again as soon as it has them (the hardest case: a
real robot plays its actions first). Settings alternate within one run; compare them with each other, not with other
machines. Server and robots share the processor.
"""

import argparse
import contextlib
import json
import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from websockets.sync.client import connect
from xwam_client.protocol import packb, unpackb

from tests.serve.conftest import Running
from xwam.compile import made_up_observation
from xwam.serve.service import ServeConfig, load_service


class Asked(NamedTuple):
    """What the robots of one setting saw, over all turns."""

    latencies: list[float]
    batches: list[int]
    spent: list[float]


def robot(port: int, question: bytes, until: float, into: Asked) -> None:
    """Ask, take the answer, ask again."""
    with connect(f"ws://127.0.0.1:{port}/", compression=None, max_size=None) as connection:
        connection.recv()
        while (asked := time.perf_counter()) < until:
            connection.send(question)
            sent = connection.recv()
            assert isinstance(sent, bytes), sent  # words are an error
            answer = unpackb(sent)
            into.latencies.append(time.perf_counter() - asked)
            into.batches.append(answer["server_timing"]["batch_size"])


def measure(server: Running, num_robots: int, seconds: float, into: Asked) -> None:
    """So many robots at once, for a while."""
    seen, start = made_up_observation(server.service.policy), time.perf_counter()
    question = packb({"images": dict(seen.images), "state": seen.state, "prompt": seen.instruction})
    arguments = (server.port, question, start + seconds, into)
    robots = [threading.Thread(target=robot, args=arguments) for _ in range(num_robots)]
    for thread in robots:
        thread.start()
    for thread in robots:
        thread.join()
    into.spent.append(time.perf_counter() - start)


def summary(asked: Asked) -> dict[str, float]:
    """Percentiles, throughput and the mean size of a batch."""
    p50, p95, p99 = (1000 * float(x) for x in np.percentile(asked.latencies, [50, 95, 99]))
    count = len(asked.latencies)
    rate, batch = count / sum(asked.spent), float(np.mean(asked.batches))
    return {"answers": count, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "per_s": rate, "batch": batch}


def start(options: argparse.Namespace, max_batch: int) -> Running:
    """A server that batches so much."""
    config = ServeConfig(max_batch=max_batch, batch_window_ms=options.batch_window_ms)
    return Running(load_service(options.checkpoint, config, device=options.device, with_world=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--robots", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=20.0, help="per setting and turn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--batch-window-ms", type=float, default=5.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with contextlib.ExitStack() as servers:
        running = {size: servers.enter_context(start(options, size)) for size in (1, options.max_batch)}
        asked = {(robots, size): Asked([], [], []) for robots in options.robots for size in running}
        for _ in range(options.turns):
            for (num_robots, max_batch), into in asked.items():
                measure(running[max_batch], num_robots, options.seconds, into)
    rows = [{"robots": robots, "max_batch": size, **summary(into)} for (robots, size), into in asked.items()]
    for row in rows:
        print(" ".join(f"{key}={value:.4g}" for key, value in row.items()))
    report = {"cores": os.cpu_count(), "load": os.getloadavg(), "rows": rows}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
