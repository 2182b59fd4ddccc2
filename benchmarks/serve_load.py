"""Latency and throughput of the server for 1, 4 and 16 robots, with and without batching, on loopback.

    python benchmarks/serve_load.py checkpoints/tiny --seconds 20

Every robot is a thread with its own connection that asks for actions again as soon as it has them (the hardest case: a
real robot plays its actions first). Settings alternate within one run; compare them with each other, not with other
machines. Server and robots share the processor.
"""

import argparse
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
from websockets.sync.client import connect
from xwam_client.protocol import ANSWER_LIMITS, packb, unpackb

from tests.serve.conftest import Running
from xwam.serve.service import ServeConfig, grey_observation, load_service


def robot(port: int, question: bytes, until: float, latencies: list[float], batches: list[int]) -> None:
    """Ask, take the answer, ask again."""
    with connect(f"ws://127.0.0.1:{port}/", compression=None, max_size=None) as connection:
        connection.recv()
        while (asked := time.perf_counter()) < until:
            connection.send(question)
            answer = unpackb(connection.recv(), ANSWER_LIMITS)
            assert not isinstance(answer, str), answer
            latencies.append(time.perf_counter() - asked)
            batches.append(answer["server_timing"]["batch_size"])


def measure(server: Running, question: bytes, num_robots: int, seconds: float) -> dict[str, float]:
    """Latencies and throughput of so many robots at once."""
    latencies: list[float] = []
    batches: list[int] = []
    start = time.perf_counter()
    arguments = (server.port, question, start + seconds, latencies, batches)
    robots = [threading.Thread(target=robot, args=arguments) for _ in range(num_robots)]
    for thread in robots:
        thread.start()
    for thread in robots:
        thread.join()
    spent = time.perf_counter() - start
    p50, p95, p99 = (1000 * float(x) for x in np.percentile(latencies, [50, 95, 99]))
    rate, batch = len(latencies) / spent, float(np.mean(batches))
    return {"answers": len(latencies), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "per_s": rate, "batch": batch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--robots", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--batch-window-ms", type=float, default=5.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for num_robots in options.robots:
        for max_batch in (1, options.max_batch):
            config = ServeConfig(max_batch=max_batch, batch_window_ms=options.batch_window_ms)
            service = load_service(options.checkpoint, config, device=options.device, with_world=False)
            seen = grey_observation(service.policy)
            question = packb({"images": dict(seen.images), "state": seen.state, "prompt": seen.instruction})
            with Running(service) as server:
                row = measure(server, question, num_robots, options.seconds)
            rows.append({"robots": num_robots, "max_batch": max_batch, **row})
            print(" ".join(f"{k}={v:.4g}" for k, v in rows[-1].items()), flush=True)
    report = {"cores": os.cpu_count(), "load": os.getloadavg(), "rows": rows}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
