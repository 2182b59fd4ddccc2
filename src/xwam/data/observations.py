"""An observation as one file, so that what a robot saw can be sent to somebody and imagined from.

The ``.npz`` holds plain arrays (``numpy.load`` with ``allow_pickle=False`` reads them all):

===================  ===========  ================================================================================
``state``            ``Ds``       the robot's state, in the units of the checkpoint's layout
``image.CAMERA``     ``H W 3``    uint8 RGB, one array per camera
``depth.CAMERA``     ``H W``      metres, 0 = unknown; optional, and the policy does not look at it
``facts``            text (JSON)  format, instruction, cameras (a list with the fields of ``records.Camera``; may be
                                  empty: then the checkpoint's own calibration counts)
===================  ===========  ================================================================================
"""

import json
from pathlib import Path

import numpy as np

from xwam.files import read_arrays, whole_file
from xwam.records import Observation
from xwam.robot.calibration import camera_from_dict, camera_to_dict

FORMAT = "xwam-observation-1"


def save_observation(path: Path, observation: Observation) -> None:
    """Write an observation (a ``.npz`` file)."""
    if path.suffix != ".npz":
        raise ValueError(f"path={path}: the file's name must end in .npz.")
    facts = {
        "format": FORMAT,
        "instruction": observation.instruction,
        "cameras": [camera_to_dict(camera) for camera in observation.cameras.values()],
    }
    arrays = {"state": observation.state, "facts": np.array(json.dumps(facts))}
    arrays |= {f"image.{name}": image for name, image in observation.images.items()}
    arrays |= {f"depth.{name}": depth for name, depth in observation.depth.items()}
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load_observation(path: Path) -> Observation:
    """The inverse of save_observation. Raises FileNotFoundError, or ValueError when the file is something else."""
    arrays = read_arrays(path, "xwam.data.observations.save_observation")
    facts = json.loads(str(arrays["facts"])) if "facts" in arrays else {}
    if facts.get("format") != FORMAT:
        raise ValueError(
            f"path={path} has format={facts.get('format')!r}: {FORMAT} is read here; save_observation writes it."
        )
    found = {
        kind: {name.removeprefix(f"{kind}."): array for name, array in arrays.items() if name.startswith(f"{kind}.")}
        for kind in ("image", "depth")
    }
    cameras = [camera_from_dict(row) for row in facts["cameras"]]
    return Observation(
        images=found["image"],
        state=arrays["state"],
        instruction=facts["instruction"],
        cameras={camera.name: camera for camera in cameras},
        depth=found["depth"],
    )
