"""What the server says: who it is, actions, worlds, refusals; as docs/protocol.md describes them."""

import dataclasses
import hashlib
import json
import platform
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from xwam_client.protocol import PROTOCOL, RefusedError, packb

import xwam
from xwam.policy import Policy
from xwam.records import Camera
from xwam.robot.layout import Layout
from xwam.robot.robot_json import RobotConfig
from xwam.serve.request import GENEROUS, MAX_SIDE_PX, MAX_TEXT, Request, RequestId
from xwam.serve.ticket import Answer, Part
from xwam.serve.wire import LIMITS, pack_array, pack_images
from xwam.strict_json import to_json
from xwam.view.points import PointCloud, fuse, thinned

FINEST_DEPTH_M = 1e-4
FINEST_POINT_M = 1e-3


def metadata(
    policy: Policy, *, name: str, checkpoint_hash: str, robot: RobotConfig | None, precision: str, queue: int,
    per_connection: int,
) -> dict[str, Any]:  # fmt: skip
    """The server's first message: all that a robot must know, and compare with itself, before it moves."""
    config, clip, layout = policy.config, policy.config.clip, policy.layout
    cameras = [
        policy.cameras.get(n) or Camera(name=n, width=clip.width_px, height=clip.height_px) for n in policy.needed_views
    ]
    limits = {"message_bytes": LIMITS.message_bytes, "array_bytes": LIMITS.array_bytes}
    return {
        "type": "metadata",
        "protocol": PROTOCOL,
        "versions": {"xwam": xwam.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "checkpoint": {"name": name, "hash": checkpoint_hash},
        "statistics_hash": policy.normalizer.fingerprint(),
        "modes": list(config.modes),
        "denoise": dataclasses.asdict(config.denoise),
        "precision": precision,
        "layout": dataclasses.asdict(layout),
        "robot": None if robot is None else json.loads(to_json(robot)),
        "cameras": [vars(camera) for camera in cameras],
        "image_size": {"height": clip.height_px, "width": clip.width_px},
        "state_width": layout.state_width,
        "action_width": layout.action_width,
        "action_horizon": clip.action_horizon,
        "action_hz": clip.action_hz,
        "num_frames": clip.num_frames,
        "frame_hz": clip.frame_hz,
        "world": policy.has_world,
        "max_prefix": config.noise.max_prefix,
        "observation": {
            "prompt": f"str of 1..{MAX_TEXT} characters: what to do",
            "state": f"({layout.state_width},) float, as layout.state; refused beyond {GENEROUS:g} half spans",
            "images": f"for each of the cameras (H, W, 3) uint8 RGB, sides of 1..{MAX_SIDE_PX}",
        },
        "limits": {**limits, "queue": queue, "per_connection": per_connection},
    }


def checkpoint_hash(folder: Path) -> str:
    """Sixteen digits that tell a checkpoint from any other: every file in it that can change an answer."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".safetensors") and p.is_file()):
        if "training" in path.relative_to(folder).parts:  # moments and raw weights, eight times as much
            continue
        with path.open("rb") as file:
            digest.update(path.relative_to(folder).as_posix().encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def actions_message(request: Request, answer: Answer, previous_ms: float | None) -> bytes:
    """The first answer."""
    timing = {} if previous_ms is None else {"prev_total_ms": previous_ms}
    return packb(
        {
            **_common(request, answer, "actions"),
            "actions": answer.prediction.action.astype(np.float32),
            "action_hz": answer.prediction.action_hz,
            "server_timing": {**_server_timing(answer), **timing},
        }
    )


def world_message(request: Request, answer: Answer, layout: Layout, absent: Collection[str] = ()) -> bytes:
    """The second answer: pictures, depth, states and, where cameras are calibrated, clouds; without ``absent`` ones."""
    prediction = answer.prediction.without_views(absent)
    assert prediction.video is not None, "a world has a video"
    cameras = prediction.cameras
    message: dict[str, Any] = {
        **_common(request, answer, "world"),
        "cameras": [vars(camera) for camera in cameras],
        "server_timing": _server_timing(answer),
        "video": {
            camera.name: pack_images(video, request.world_format)
            for camera, video in zip(cameras, prediction.video, strict=True)
        },
    }
    if prediction.depth is not None:
        message["depth"] = {
            camera.name: _pack_depth(depth, camera.far_m)
            for camera, depth in zip(cameras, prediction.depth, strict=True)
        }
        if any(camera.is_calibrated for camera in cameras):
            clouds = (fuse(prediction, layout, step) for step in range(len(prediction.state)))
            message["clouds"] = [_pack_cloud(cloud, request.voxel_m) for cloud in clouds]
    return packb(message)


def refusal(request_id: RequestId, session_id: str | None, part: Part, error: RefusedError) -> bytes | str:
    """A refusal: a map for who gave an id, else the text frame that openpi's client raises."""
    if request_id is None:
        return f"{error.rule}: {error}"
    ids = _ids(request_id, session_id)
    return packb({"type": "refusal", **ids, "part": part, "rule": error.rule, "message": str(error)})


def acknowledgement(kind: str, request_id: RequestId, session_id: str | None = None, **facts: bool) -> bytes:
    """The answer to ``reset`` and ``cancel``."""
    return packb({"type": kind, **_ids(request_id, session_id), **facts})


def _ids(request_id: RequestId, session_id: str | None) -> dict[str, Any]:
    ids = {"request_id": request_id, "session_id": session_id}
    return {key: value for key, value in ids.items() if value is not None}


def _common(request: Request, answer: Answer, kind: Part) -> dict[str, Any]:
    prediction = answer.prediction
    stages = {f"{stage}_ms": 1000 * seconds for stage, seconds in prediction.seconds.items()}
    # openpi's ActionChunkBroker cuts every array of an answer into action steps: it must find no other array.
    states = {} if request.request_id is None else {"states": prediction.state.astype(np.float32)}
    return {
        "type": kind,
        **_ids(request.request_id, request.session_id),
        **states,
        "frame_hz": prediction.frame_hz,
        "seed": prediction.seed,
        "policy_timing": {"infer_ms": 1000 * answer.infer_s, **stages},
    }


def _server_timing(answer: Answer) -> dict[str, Any]:
    return {
        "infer_ms": 1000 * answer.infer_s,
        "queue_ms": 1000 * answer.queue_s,
        "batch_size": answer.batch_size,
    }


def _pack_depth(depth_m: Float[np.ndarray, "T H W"], far_m: float) -> dict[str, Any]:
    scale = max(far_m / 65535, FINEST_DEPTH_M)
    return pack_array(np.rint(depth_m / scale).clip(0, 65535).astype(np.uint16), scale)


def _pack_cloud(cloud: PointCloud, voxel_m: float) -> dict[str, Any]:
    cloud = thinned(cloud, voxel_m) if len(cloud.points) else cloud
    scale = max(float(np.abs(cloud.points).max(initial=0)) / 32767, FINEST_POINT_M)
    return {
        "points": pack_array(np.rint(cloud.points / scale).astype(np.int16), scale),
        "colours": pack_array(cloud.colours),
        "view": pack_array(cloud.view.astype(np.uint8)),
    }
