"""What a robot saw, asked and was told, kept as files: for the day when the pictures look right and the robot is wrong.

    player = Player(recorded(answers_of_checkpoint(Path("checkpoints/mine")), Path("runs/seen")))

Question ``n`` becomes ``n-seen.npz``, an observation (data/observations.py), so ``xwam imagine … --input`` shows
what the model thinks of it, and ``n-told.npz``: ``actions`` (``Ta Da``, as the layout says; absent when refused),
``prefix`` (what was still to be played; may be absent) and ``facts`` (JSON: seed, seconds, num_committed, error).
"""

import contextlib
import itertools
import json
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from xwam.data.observations import save_observation
from xwam.files import whole_file
from xwam.records import Observation
from xwam.serve.player import Answers

LOG = logging.getLogger("xwam.serve")
LAST_S = 10.0  # for the answer that is on its way when all is closed


def recorded(answers: Answers, folder: Path) -> Answers:
    """The same answers; every question and answer is written to ``folder`` by a thread of its own.

    Three pictures of 640 x 480 take about 2 MB. What cannot be written is logged, and the robot plays on. Numbers go on
    behind those that are in the folder; two robots need two folders. ``close`` waits for the last answer and file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = [int(path.name.split("-")[0]) for path in folder.glob("[0-9]*-seen.npz")]
    numbers, writer = itertools.count(max(before, default=-1) + 1), ThreadPoolExecutor(1, "xwam-recorder")
    coming: set[Future[dict[str, Any]]] = set()

    def ask(observation: Observation, **asked: Any) -> Future[dict[str, Any]]:
        answer, asked_at, name = answers.ask(observation, **asked), time.monotonic(), f"{next(numbers):06d}"
        kept = replace(observation, images={key: image.copy() for key, image in observation.images.items()})
        writer.submit(_logged, save_observation, folder / f"{name}-seen.npz", kept)

        def answered(done: Future[dict[str, Any]]) -> None:
            told = (done, asked, time.monotonic() - asked_at)
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                writer.submit(_logged, _save_answer, folder / f"{name}-told.npz", *told)
            coming.discard(done)

        coming.add(answer)
        answer.add_done_callback(answered)
        return answer

    def close() -> None:
        answers.close()
        wait([answer for answer in coming if not answer.cancelled()], LAST_S)
        writer.shutdown()

    return answers._replace(ask=ask, close=close)


def _save_answer(path: Path, done: Future[dict[str, Any]], asked: dict[str, Any], seconds: float) -> None:
    arrays = {} if asked.get("prefix") is None else {"prefix": np.asarray(asked["prefix"])}
    facts = {"seconds": seconds, "seed": asked.get("seed"), "num_committed": asked.get("num_committed")}
    if done.cancelled():
        facts["error"] = "cancelled"
    elif error := done.exception():
        facts["error"] = f"{type(error).__name__}: {error}"
    else:
        arrays["actions"] = np.asarray(done.result()["actions"])
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, facts=np.array(json.dumps(facts)), **arrays)


def _logged(write: Any, path: Path, *what: Any) -> None:
    try:
        write(path, *what)
    except Exception:
        LOG.exception("%s could not be written", path)
