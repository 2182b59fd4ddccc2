"""Predictions as files that other programs read: ``.npz`` (everything), ``.ply`` per step, one ``.glb`` over time.

The ``.npz`` holds plain arrays (``numpy.load`` with ``allow_pickle=False`` reads them all):

======================  =================  =========================================================================
``action``              ``Ta Da``          commands, in the units of ``layout``
``state``               ``Ts Ds``          one state per frame; the first is the observation
``video``               ``V T H W 3``      uint8 RGB; missing in an answer of actions only
``depth``               ``V T H W``        metres, 0 = unknown; missing likewise
``base_from_camera``    ``V T 4 4``        camera poses as ``view.points.camera_poses`` gives them, NaN where
                                           uncalibrated; derived: written for other programs, not read back
``facts``               text (JSON)        instruction, frame_hz, action_hz, seed, seconds, cameras (a list, one per
                                           view, with the fields of ``records.Camera``), layout, format
``real_…``                                 the same names again for what really happened, where it is known
======================  =================  =========================================================================

Points of a cloud are metres in the base frame; PLY and GLB colours are those of the images.
"""

import json
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from xwam.files import read_arrays, whole_file
from xwam.records import Camera, Prediction
from xwam.robot.calibration import camera_from_dict, camera_to_dict
from xwam.robot.layout import Layout
from xwam.strict_json import from_json
from xwam.view.points import PointCloud, camera_poses

FORMAT = "xwam-prediction-1"
GLB_MAGIC, GLB_JSON, GLB_BIN = 0x46546C67, 0x4E4F534A, 0x004E4942
GLB_FLOAT, GLB_SHORT = 5126, 5123
GLB_VERTICES = 34962


class Saved(NamedTuple):
    """What a prediction file holds."""

    prediction: Prediction
    layout: Layout
    real: Prediction | None


# --- everything -------------------------------------------------------------------------------------------------


def save_prediction(path: Path, prediction: Prediction, layout: Layout, *, real: Prediction | None = None) -> None:
    """Write a prediction, its layout and, where known, what really happened (the same record)."""
    if path.suffix != ".npz":
        raise ValueError(f"path={path}: the file's name must end in .npz.")
    arrays = _to_arrays(prediction, layout, "")
    if real is not None:
        arrays |= _to_arrays(real, layout, "real_")
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load_prediction(path: Path) -> Saved:
    """The inverse of save_prediction. Raises FileNotFoundError, or ValueError when the file is something else."""
    arrays = read_arrays(path, "`xwam imagine`")
    facts = json.loads(str(arrays["facts"])) if "facts" in arrays else {}
    if facts.get("format") != FORMAT:
        raise ValueError(f"path={path} has format={facts.get('format')!r}: {FORMAT} is read here; write it again.")
    layout = from_json(Layout, json.dumps(facts["layout"]))
    real = _from_arrays(arrays, "real_") if "real_facts" in arrays else None
    return Saved(_from_arrays(arrays, ""), layout, real)


def _to_arrays(prediction: Prediction, layout: Layout, prefix: str) -> dict[str, np.ndarray]:
    facts = {
        "format": FORMAT,
        "layout": asdict(layout),
        "cameras": [camera_to_dict(camera) for camera in prediction.cameras],
        "seconds": dict(prediction.seconds),
        **{name: vars(prediction)[name] for name in ("instruction", "frame_hz", "action_hz", "seed")},
    }
    arrays = {"action": prediction.action, "state": prediction.state, "facts": np.array(json.dumps(facts))}
    if prediction.video is not None:
        arrays["video"] = prediction.video
    if prediction.depth is not None:
        arrays["depth"] = prediction.depth
    poses = [_poses_or_nan(camera, prediction, layout) for camera in prediction.cameras]
    if poses:
        arrays["base_from_camera"] = np.stack(poses)
    return {prefix + name: array for name, array in arrays.items()}


def _from_arrays(arrays: dict[str, np.ndarray], prefix: str) -> Prediction:
    facts = json.loads(str(arrays[f"{prefix}facts"]))
    return Prediction(
        action=arrays[f"{prefix}action"],
        state=arrays[f"{prefix}state"],
        video=arrays.get(f"{prefix}video"),
        depth=arrays.get(f"{prefix}depth"),
        cameras=tuple(camera_from_dict(row) for row in facts["cameras"]),
        **{name: facts[name] for name in ("instruction", "frame_hz", "action_hz", "seed", "seconds")},
    )


def _poses_or_nan(camera: Camera, prediction: Prediction, layout: Layout) -> Float[np.ndarray, "Ts 4 4"]:
    if not camera.is_calibrated:
        return np.full((len(prediction.state), 4, 4), np.nan)
    return camera_poses(camera, prediction.state, layout)


# --- point clouds -----------------------------------------------------------------------------------------------


def write_ply(path: Path, cloud: PointCloud) -> None:
    """One cloud as binary PLY: x y z (float, metres), red green blue (uchar), view (uchar: which camera saw it)."""
    header = ["ply", "format binary_little_endian 1.0", "comment metres, robot base frame"]
    header += [f"element vertex {len(cloud.points)}", *(f"property float {axis}" for axis in "xyz")]
    header += [*(f"property uchar {name}" for name in ("red", "green", "blue", "view")), "end_header\n"]
    rows = np.zeros(len(cloud.points), dtype=[("points", "<f4", 3), ("colours", "u1", 3), ("view", "u1")])
    rows["points"], rows["colours"], rows["view"] = cloud.points, cloud.colours, cloud.view
    with whole_file(path) as temporary:
        temporary.write_bytes("\n".join(header).encode() + rows.tobytes())


def write_glb(path: Path, clouds: list[PointCloud], frame_hz: float) -> None:
    """All clouds in one binary glTF 2.0 file, one node per step, with an animation that shows one at a time.

    glTF's up is y, so a root node turns the base frame's z upwards. Viewers without animation show every step.
    """
    if not clouds or not all(len(cloud.points) for cloud in clouds):
        raise ValueError(f"clouds={[len(c.points) for c in clouds]} points: a GLB needs at least one point per step.")
    binary, scene = _Buffer(), _glb_scene(len(clouds))
    for cloud in clouds:
        points = np.ascontiguousarray(cloud.points, dtype="<f4")
        colours = np.full((len(points), 4), 65535, dtype="<u2")
        colours[:, :3] = np.rint(65535 * linear_light(cloud.colours))
        position = binary.add(points, GLB_FLOAT, "VEC3", target=GLB_VERTICES)
        binary.accessors[position] |= {"min": points.min(0).tolist(), "max": points.max(0).tolist()}
        colour = binary.add(colours, GLB_SHORT, "VEC4", target=GLB_VERTICES, normalized=True)
        attributes = {"POSITION": position, "COLOR_0": colour}
        scene["meshes"].append({"primitives": [{"attributes": attributes, "mode": 0}]})
    scene["animations"] = [_one_at_a_time(binary, len(clouds), frame_hz)]
    scene |= {"accessors": binary.accessors, "bufferViews": binary.views}
    scene["buffers"] = [{"byteLength": len(binary.data)}]
    text = json.dumps(scene, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary.data)
    with whole_file(path) as temporary:
        temporary.write_bytes(
            struct.pack("<III", GLB_MAGIC, 2, total)
            + struct.pack("<II", len(text), GLB_JSON)
            + text
            + struct.pack("<II", len(binary.data), GLB_BIN)
            + bytes(binary.data)
        )


def linear_light(colours: UInt8[np.ndarray, "*any 3"]) -> Float[np.ndarray, "*any 3"]:
    """Bytes of a picture (sRGB) as amounts of light in 0..1, which is what a GLB holds (IEC 61966-2-1)."""
    value = colours / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


class _Buffer:
    """The binary chunk of a GLB, and the tables that say what lies where."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, values: np.ndarray, component: int, kind: str, *, target: int | None = None, **more: Any) -> int:
        """Append an array; returns its accessor's index."""
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": values.nbytes}
        self.views.append(view if target is None else view | {"target": target})
        self.data += values.tobytes() + b"\0" * (-values.nbytes % 4)
        row = {"bufferView": len(self.views) - 1, "componentType": component, "count": len(values), "type": kind}
        self.accessors.append(row | more)
        return len(self.accessors) - 1


def _glb_scene(num_steps: int) -> dict[str, Any]:
    half = float(np.sqrt(0.5))
    root = {"name": "base frame", "children": list(range(1, num_steps + 1)), "rotation": [-half, 0.0, 0.0, half]}
    steps = [{"name": f"step {i}", "mesh": i} for i in range(num_steps)]
    return {
        "asset": {"version": "2.0", "generator": "xwam"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [root, *steps],
        "meshes": [],
    }


def _one_at_a_time(binary: _Buffer, num_steps: int, frame_hz: float) -> dict[str, Any]:
    """Scale every step's node to 1 in its own time and to 0 otherwise."""
    times = (np.arange(num_steps + 1) / frame_hz).astype("<f4")
    clock = binary.add(times, GLB_FLOAT, "SCALAR")
    binary.accessors[clock] |= {"min": [float(times[0])], "max": [float(times[-1])]}
    samplers, channels = [], []
    for step in range(num_steps):
        scale = np.zeros((num_steps + 1, 3), dtype="<f4")
        scale[step] = 1
        scale[-1] = scale[-2]
        samplers.append({"input": clock, "interpolation": "STEP", "output": binary.add(scale, GLB_FLOAT, "VEC3")})
        channels.append({"sampler": step, "target": {"node": step + 1, "path": "scale"}})
    return {"name": "time", "samplers": samplers, "channels": channels}
