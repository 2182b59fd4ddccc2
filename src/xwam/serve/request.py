"""From a stranger's message to a request that the policy can answer, or a refusal that names the broken rule."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from xwam_client.protocol import RefusedError

from xwam.denoise.prefix import CANNOT_STEER
from xwam.encode import check_observation
from xwam.policy import Policy
from xwam.records import Camera, Observation
from xwam.robot.layout import Layout
from xwam.robot.normalizer import GENEROUS, Normalizer
from xwam.strict_json import suggest

MAX_SIDE_PX = 4096
MAX_TEXT = 1000  # characters of an instruction
MAX_NAME = 128  # characters of an id
MAX_SEED = 2**63 - 1
WORLD_FORMATS = ("jpeg", "png", "raw")
VOXEL_M = (0.001, 1.0)
FAR_M = 100.0

OPTIONS = ("request_id", "session_id", "reset", "seed", "world", "world_format", "voxel_m", "cameras", "prefix")
NESTED_KEYS = ("prompt", "state", "images", *OPTIONS, "num_committed")
FLAT = "observation/"
CAMERA_KEYS = tuple(field.name for field in dataclasses.fields(Camera))
RequestId = int | str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One observation and what is asked about it."""

    observation: Observation
    request_id: RequestId = None
    session_id: str | None = None
    reset: bool = False
    seed: int = 0
    is_alone: bool = False  # computed in a batch of its own, because a seed was named
    world: bool = False
    world_format: str = "jpeg"
    voxel_m: float = 0.005
    prefix: Float[np.ndarray, "n Da"] | None = None
    num_committed: int = 0
    steered: bool = False  # the prefix bends the denoising, which costs more: not in a batch with plain requests

    @property
    def num_bytes(self) -> int:
        """What its arrays hold in memory, about: images are nearly all of it."""
        return sum(image.nbytes for image in self.observation.images.values())


def read_id(message: Mapping[str, Any], key: str = "request_id") -> RequestId:
    """An id as the client wrote it: a whole number, a short string, or None where there is none."""
    value = message.get(key)
    is_number = type(value) is int and abs(value) < 2**63
    if value is None or is_number or (isinstance(value, str) and 0 < len(value) <= MAX_NAME):
        return value
    raise RefusedError("wrong_type", f"{key}: must be a whole number or a string of 1..{MAX_NAME} characters.")


def read_session(message: Mapping[str, Any]) -> str | None:
    """The session's id, or None."""
    value = message.get("session_id")
    if value is None or (isinstance(value, str) and 0 < len(value) <= MAX_NAME):
        return value
    raise RefusedError("wrong_type", f"session_id: must be a string of 1..{MAX_NAME} characters.")


def read_request(message: Mapping[str, Any], policy: Policy) -> Request:
    """Check everything; raise RefusedError with the rule that is broken."""
    fields = nested(message)
    names = policy.needed_views
    request_id, world = read_id(fields), _flag(fields, "world")
    if world and request_id is None:
        raise RefusedError("missing_key", "world=True: give a request_id too, so that the second answer can be told.")
    if world and not policy.has_world:
        raise RefusedError(
            "not_offered", "world=True: this server has no worlds (metadata: world); ask for actions only."
        )
    prefix, num_committed = _prefix(fields, policy)
    steered = prefix is not None and len(prefix) > 0 and policy.config.noise.max_prefix == 0
    if steered and not policy.networks.is_differentiable:
        raise RefusedError("not_offered", CANNOT_STEER)
    observation = Observation(
        images=_images(fields, names),
        state=read_state(fields, policy.normalizer),
        instruction=_prompt(fields, policy),
        cameras=_cameras(fields, names, policy.layout),
    )
    try:
        check_observation(observation, names, policy.config.clip, policy.layout)
    except ValueError as error:
        raise RefusedError("out_of_range", str(error)) from error
    return Request(
        observation=observation,
        request_id=request_id,
        session_id=read_session(fields),
        reset=_flag(fields, "reset"),
        seed=_whole(fields, "seed", 0, 0, MAX_SEED),
        is_alone=fields.get("seed") is not None,
        world=world,
        world_format=_choice(fields, "world_format", WORLD_FORMATS),
        voxel_m=_number(fields, "voxel_m", 0.005, *VOXEL_M),
        prefix=prefix,
        num_committed=num_committed,
        steered=steered,
    )


def nested(message: Mapping[str, Any]) -> dict[str, Any]:
    """Either spelling as one: ``observation/state`` becomes ``state``, ``observation/CAMERA`` an image of it."""
    flat = {key.removeprefix(FLAT): value for key, value in message.items() if key.startswith(FLAT)}
    rest = {key: value for key, value in message.items() if not key.startswith(FLAT)}
    if flat and ("state" in rest or "images" in rest):
        raise RefusedError("unknown_key", f"state or images beside {FLAT}...: use one of the two spellings.")
    if flat:
        rest |= {"state": flat.pop("state")} if "state" in flat else {}
        rest["images"] = flat
    for key in rest:
        if key not in NESTED_KEYS:
            raise RefusedError("unknown_key", f"key={key[:40]!r}: {suggest(key[:40], NESTED_KEYS)}")
    for key in ("prompt", "state", "images"):
        if key not in rest:
            raise RefusedError("missing_key", f"{key} is missing: an observation needs prompt, state and images.")
    return rest


def read_state(fields: Mapping[str, Any], normalizer: Normalizer) -> Float[np.ndarray, " Ds"]:
    """The robot's state, finite and not absurd."""
    state = _floats(fields["state"], "state", (normalizer.layout.state_width,))
    try:
        normalizer.check_plausible(state)
    except ValueError as error:
        raise RefusedError("absurd_state", str(error)) from error
    return state.astype(np.float32)


def _images(fields: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    images = fields["images"]
    if not isinstance(images, dict):
        raise RefusedError("wrong_type", "images: must be a map from camera to image.")
    for name in images:
        if name not in names:
            raise RefusedError("unknown_camera", f"camera={name[:40]!r}: {suggest(name[:40], names)}")
    for name in names:
        if name not in images:
            raise RefusedError("missing_key", f"camera={name!r} is missing; needed: {', '.join(names)}.")
        image = images[name]
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
            raise RefusedError("wrong_type", f"image of camera={name!r}: must be an array of uint8.")
        if image.ndim != 3 or image.shape[2] != 3 or not all(1 <= side <= MAX_SIDE_PX for side in image.shape[:2]):
            wanted = f"must be (H, W, 3), RGB, sides of 1..{MAX_SIDE_PX}"
            raise RefusedError("wrong_shape", f"image of camera={name!r} has shape {image.shape}: {wanted}.")
    return images


def _prompt(fields: Mapping[str, Any], policy: Policy) -> str:
    prompt = fields["prompt"]
    if not isinstance(prompt, str):
        raise RefusedError("wrong_type", "prompt: must be a string.")
    if not prompt.strip() or len(prompt) > MAX_TEXT:
        raise RefusedError("out_of_range", f"prompt of {len(prompt)} characters: say in 1..{MAX_TEXT} what to do.")
    if not policy.networks.has_text and prompt not in policy.encoded.texts:
        known = suggest(prompt[:80], [text for text in policy.encoded.texts if text])
        raise RefusedError("not_offered", f"prompt={prompt[:80]!r}: this server has no text encoder; {known}")
    return prompt


def _cameras(fields: Mapping[str, Any], names: tuple[str, ...], layout: Layout) -> dict[str, Camera]:
    rows = fields.get("cameras")
    if rows is None:
        return {}
    if not isinstance(rows, dict):
        raise RefusedError("wrong_type", "cameras: must be a map from camera to calibration.")
    cameras = {name: _camera(name, row, names) for name, row in rows.items()}
    known = {part.name for part in layout.state if part.is_used}
    for name, camera in cameras.items():
        wanted = {f"{camera.hand}_position", f"{camera.hand}_rotation"}
        if camera.hand_from_camera is not None and not wanted <= known:
            raise RefusedError("out_of_range", f"cameras[{name!r}].hand={camera.hand!r}: the robot has no such hand.")
    return cameras


def _camera(name: str, row: Any, names: tuple[str, ...]) -> Camera:
    if name not in names:
        raise RefusedError("unknown_camera", f"cameras has {name[:40]!r}: {suggest(name[:40], names)}")
    if not isinstance(row, dict):
        raise RefusedError("wrong_type", f"cameras[{name!r}]: must be a map.")
    if not isinstance(row.get("name", name), str) or row.get("name", name) != name:
        raise RefusedError(
            "unknown_camera", f"cameras[{name!r}].name={str(row['name'])[:40]!r}: must be {name!r}, or left out."
        )
    for key in row:
        if key not in CAMERA_KEYS:
            raise RefusedError("unknown_key", f"cameras[{name!r}] has {key[:40]!r}: {suggest(key[:40], CAMERA_KEYS)}")
    shapes = {"intrinsics": (3, 3), "base_from_camera": (4, 4), "hand_from_camera": (4, 4)}
    known: dict[str, Any] = {
        k: _floats(row[k], f"cameras[{name!r}].{k}", shapes[k]) for k in shapes if row.get(k) is not None
    }
    for key, value in known.items():
        biggest = 10.0 * MAX_SIDE_PX if key == "intrinsics" else FAR_M
        if np.abs(value).max() > biggest:
            unit = "pixels" if key == "intrinsics" else "metres"
            raise RefusedError("out_of_range", f"cameras[{name!r}].{key}: at most {biggest:g} {unit}.")
    ends = (("near_m", Camera.near_m), ("far_m", Camera.far_m))
    near, far = (_number(row, key, default, 1e-3, FAR_M) for key, default in ends)
    known["depth_at"] = _number(row, "depth_at", Camera.depth_at, -16.0, 16.0)
    width, height = (_whole(row, key, 0, 1, MAX_SIDE_PX) for key in ("width", "height"))
    if not (width and height):
        raise RefusedError("missing_key", f"cameras[{name!r}]: width and height of its images are missing.")
    known["hand"] = _choice(row, "hand", ("left", "right"))
    for key, default in (("on_hand", Camera.on_hand), ("has_depth", Camera.has_depth)):
        known[key] = row.get(key, default)
        if not isinstance(known[key], bool):
            raise RefusedError("wrong_type", f"cameras[{name!r}].{key}: must be true or false.")
    try:
        return Camera(name=name, width=width, height=height, near_m=near, far_m=far, **known)
    except ValueError as error:
        raise RefusedError("out_of_range", str(error)) from error


def _prefix(fields: Mapping[str, Any], policy: Policy) -> tuple[np.ndarray | None, int]:
    value, horizon, width = fields.get("prefix"), policy.config.clip.action_horizon, policy.layout.action_width
    if value is None:
        if fields.get("num_committed") is not None:
            raise RefusedError("missing_key", "num_committed without prefix: send the rest of the last chunk too.")
        return None, 0
    if not isinstance(value, np.ndarray) or value.ndim != 2 or len(value) > horizon:
        raise RefusedError("wrong_shape", f"prefix: must be an array (n, {width}), n at most {horizon}.")
    prefix = _floats(value, "prefix", (len(value), width))
    span = np.maximum(np.abs(policy.normalizer.action_q01), np.abs(policy.normalizer.action_q99))
    if (np.abs(prefix) > GENEROUS * np.maximum(span, 1 / GENEROUS)).any():
        raise RefusedError("out_of_range", "prefix: actions far beyond what this checkpoint has seen; check units.")
    most = min(len(prefix), horizon - 1)
    return prefix.astype(np.float32), _whole(fields, "num_committed", most, 0, most)


def _floats(value: Any, what: str, shape: tuple[int, ...]) -> np.ndarray:
    """A finite array of this shape as float64."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise RefusedError("wrong_type", f"{what}: must be an array of numbers.")
    if value.shape != shape:
        raise RefusedError("wrong_shape", f"{what} has shape {value.shape}: must be {shape}.")
    value = value.astype(np.float64)
    if not np.isfinite(value).all():
        raise RefusedError(
            "not_finite", f"{what} holds NaN or infinity: every slot must be a number; check the sensor."
        )
    return value


def _flag(fields: Mapping[str, Any], key: str) -> bool:
    value = fields.get(key)
    if value is None or isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise RefusedError("wrong_type", f"{key}: must be true or false.")


def _whole(fields: Mapping[str, Any], key: str, default: int, low: int, high: int) -> int:
    value = fields.get(key)
    if value is None:
        return default
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise RefusedError("wrong_type", f"{key}: must be a whole number.")
    if not low <= value <= high:
        raise RefusedError("out_of_range", f"{key}={value}: must be {low}..{high}.")
    return int(value)


def _number(fields: Mapping[str, Any], key: str, default: float, low: float, high: float) -> float:
    value = fields.get(key)
    if value is None:
        return default
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise RefusedError("wrong_type", f"{key}: must be a number.")
    if not math.isfinite(value) or not low <= value <= high:
        raise RefusedError("out_of_range", f"{key}={value:.4g}: must be {low:g}..{high:g}.")
    return float(value)


def _choice(fields: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> str:
    value = fields.get(key)
    if value is None:
        return allowed[0]
    if not isinstance(value, str) or value not in allowed:
        raise RefusedError("out_of_range", f"{key}: {suggest(str(value)[:40], allowed)}")
    return value
