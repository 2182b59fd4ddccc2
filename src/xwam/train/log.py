"""What a run says while it runs: numbers to ``log.jsonl``, TensorBoard and, when asked for, Weights & Biases."""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from xwam.files import write_text

Log = Callable[[dict[str, float], int], None]
"""Called with numbers and the step."""


@contextmanager
def open_log(
    out: Path, *, wandb_project: str | None = None, settings: Mapping[str, Any] | None = None
) -> Iterator[Log]:
    """Numbers go to ``log.jsonl``, to TensorBoard's files when it is installed, and to a W&B project when one is named.

    At the end of the context all are written and closed, whatever ended it. W&B needs ``pip install 'xwam[wandb]'``;
    it works without network too (``WANDB_MODE=offline``).
    """
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as opened:
        boards = [_file(out / "log.jsonl")]
        if (board := _tensorboard(out / "tensorboard", opened)) is not None:
            boards.append(board)
        if wandb_project is not None:
            boards.append(_wandb(out, wandb_project, settings or {}, opened))

        def log(numbers: dict[str, float], finished: int) -> None:
            for board in boards:
                board(numbers, finished)

        yield log


class Meter:
    """Speed since the last reading, the share of ``limit`` (what matrix products alone allow), the wait for data."""

    def __init__(self, batch_size: int, limit: float, hours_before: float = 0.0) -> None:
        """``hours_before``: what earlier starts of the run took."""
        self.batch_size, self.limit, self._steps = batch_size, limit, 0
        self._began = time.perf_counter() - 3600 * hours_before
        self._mark, self._waited = time.perf_counter(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time inside this context is waiting."""
        before = time.perf_counter()
        yield
        self._waited += time.perf_counter() - before
        self._steps += 1

    def hours(self) -> dict[str, float]:
        """Hours of training of all starts together, validation included, for the manifest."""
        return {"hours": round((time.perf_counter() - self._began) / 3600, 3)}

    def read(self) -> dict[str, float]:
        """The numbers, and start anew."""
        seconds, steps = time.perf_counter() - self._mark, self._steps
        share, self._mark, self._waited, self._steps = self._waited / seconds, time.perf_counter(), 0.0, 0
        rate = steps * self.batch_size / seconds
        return {"samples_per_second": rate, "matrix_rate_share": rate / self.limit, "data_wait_share": share}


def _file(path: Path) -> Log:
    def log(numbers: dict[str, float], finished: int) -> None:
        with path.open("a") as lines:
            lines.write(json.dumps({"step": finished, **numbers}) + "\n")

    return log


def _tensorboard(folder: Path, opened: ExitStack) -> Log | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    writer = SummaryWriter(str(folder))
    opened.callback(writer.close)  # also ends its thread

    def log(numbers: dict[str, float], finished: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, finished)

    return log


def _wandb_id(out: Path) -> str:
    """A continued run goes on in the same curve; a new one in an old place, or a copy elsewhere, does not."""
    kept, place = out / "wandb.json", str(out.resolve())
    known = json.loads(kept.read_text()) if kept.is_file() else {}
    if known.get("place") != place:
        known = {"place": place, "id": secrets.token_hex(8)}
        write_text(kept, json.dumps(known) + "\n")
    return known["id"]


def _wandb(out: Path, project: str, settings: Mapping[str, Any], opened: ExitStack) -> Log:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(f"wandb={project} needs Weights & Biases: pip install 'xwam[wandb]'") from error
    identity = _wandb_id(out)
    run = wandb.init(project=project, dir=out, name=out.name, id=identity, resume="allow", config=dict(settings))
    opened.push(lambda kind, *_: run.finish(exit_code=int(kind is not None)))

    def log(numbers: dict[str, float], finished: int) -> None:
        run.log(dict(numbers), step=finished)

    return log
