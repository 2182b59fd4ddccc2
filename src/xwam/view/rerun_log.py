"""A prediction as a rerun recording (``.rrd``): for people who use rerun's viewer (https://rerun.io).

Entities: ``world/<imagined|real>/points`` and ``/path/<hand>``, ``…/cameras/<view>`` with the image under a
pinhole, ``…/depth/<view>`` beside them (in space it stands as points). The timeline ``time`` counts the robot's seconds
from now. Lengths are metres in the base frame, z up.
"""

from pathlib import Path
from typing import Any

import numpy as np

from xwam.colours import IMAGINED_RGB, REAL_RGB
from xwam.files import whole_file
from xwam.records import Camera, Prediction
from xwam.robot.layout import Layout
from xwam.view.points import camera_poses, fuse, world

VOXEL_M = 0.003


def write_rerun(path: Path, prediction: Prediction, layout: Layout, *, real: Prediction | None = None) -> None:
    """Write the recording. Raises ImportError when rerun is not installed."""
    try:
        import rerun  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("the .rrd export needs rerun: pip install 'xwam[rerun]'") from error
    if path.suffix != ".rrd":
        raise ValueError(f"path={path}: the file's name must end in .rrd.")
    with whole_file(path) as temporary, rerun.RecordingStream("xwam") as stream:
        stream.save(temporary)
        stream.log("world", rerun.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        _log_world(rerun, stream, "world/imagined", prediction, layout, IMAGINED_RGB)
        if real is not None:
            _log_world(rerun, stream, "world/real", real, layout, REAL_RGB)
        stream.flush()
        stream.disconnect()


def _log_world(
    rerun: Any, stream: Any, root: str, prediction: Prediction, layout: Layout, colour: tuple[int, int, int]
) -> None:
    video, depth = world(prediction)
    for step in range(video.shape[1]):
        stream.set_time("time", duration=step / prediction.frame_hz)
        cloud = fuse(prediction, layout, step, voxel_m=VOXEL_M)
        stream.log(f"{root}/points", rerun.Points3D(cloud.points, colors=cloud.colours, radii=0.002))
        for name, where in layout.hands:
            path = prediction.state[: step + 1, where]
            stream.log(f"{root}/path/{name}", rerun.LineStrips3D([path], colors=[colour], radii=0.003))
        for view, camera in enumerate(prediction.cameras):
            if camera.is_calibrated:
                _log_camera(rerun, stream, f"{root}/cameras/{camera.name}", camera, prediction, layout, step)
            stream.log(f"{root}/cameras/{camera.name}/image", rerun.Image(video[view, step]).compress(jpeg_quality=90))
            millimetres = np.clip(depth[view, step] * 1000, 0, 65535).round().astype(np.uint16)
            stream.log(f"{root}/depth/{camera.name}", rerun.DepthImage(millimetres, meter=1000.0))


def _log_camera(
    rerun: Any, stream: Any, name: str, camera: Camera, prediction: Prediction, layout: Layout, step: int
) -> None:
    pose = camera_poses(camera, prediction.state[step], layout)
    stream.log(name, rerun.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
    stream.log(
        f"{name}/image",
        rerun.Pinhole(image_from_camera=camera.intrinsics, resolution=[camera.width, camera.height]),
    )
