"""A robot on a line, for the processes of an evaluation: nothing of xwam is imported here."""

from pathlib import Path

import numpy as np
from xwam_client.agreement import MismatchError
from xwam_client.client import Observation
from xwam_client.protocol import RefusedError


class Line:
    """A robot on a line. Episodes with an even number are solved after five actions, no others."""

    def __init__(self, metadata, task, *, note):
        self.layout, self.action_hz = metadata["layout"], metadata["action_hz"]
        self.cameras = {camera["name"]: camera for camera in metadata["cameras"]}
        self.task, self.max_steps, self.success, self.note = task, 10, False, Path(note)
        self.width = metadata["state_width"]

    def reset(self, seed):
        self.seed, self.played, self.success = seed, 0, False
        with self.note.open("a") as file:
            file.write(f"{self.task} {seed}\n")
        if (self.task, seed) == ("breaks", 0):
            raise RuntimeError("the simulator broke.")

    def observe(self):
        images = {name: np.full((32, 32, 3), 40 * self.seed, np.uint8) for name in self.cameras}
        state = np.zeros(self.width)
        state[3] = 1
        return Observation(images, state, self.task)

    def step(self, action):
        assert np.isfinite(action).all()
        self.played += 1
        self.success = self.seed % 2 == 0 and self.played == 5
        return self.success

    def close(self):
        with self.note.open("a") as file:
            file.write("closed\n")


def refuse(metadata, task, **options):
    raise MismatchError(f"{task}: another robot. Nothing was moved.")


def refused(metadata, task, **options):
    raise RefusedError("failed", f"{task}: the server could not.")
