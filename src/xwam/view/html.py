"""The 4D page: the imagined world as a coloured cloud over time, the real one beside it, in one HTML file.

The scene is viser's, recorded step by step into its own player: play, pause, a time slider in seconds, speed, and a
list of everything in the scene with a switch for each. The file asks nothing of the network.

In: a Prediction, the robot's Layout and, where known, what really happened (the same record with the real video,
depth and states; it may end earlier). All lengths are metres in the base frame.
"""

import html
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from xwam.colours import IMAGINED_RGB, REAL_RGB, css
from xwam.files import write_text
from xwam.records import Prediction
from xwam.robot.layout import Layout
from xwam.robot.rotations import quat_from_matrix
from xwam.view.points import PointCloud, camera_poses, fuse, thinned

POINTS_PER_STEP = 24_000
ABOUT_AS_MUCH = 0.8  # as the side that saw most
GRID_M = 0.1
AXES_M = 0.15


class Stage(NamedTuple):
    """Where things are: the middle of the scene, its size, and where a person should stand."""

    low: Float[np.ndarray, "3"]
    high: Float[np.ndarray, "3"]
    eye: Float[np.ndarray, "3"]
    look_at: Float[np.ndarray, "3"]
    offset: Float[np.ndarray, "3"]  # from the imagined world to the real one
    voxel_m: float


class Side(NamedTuple):
    """One of the two worlds on the page: what it is called, its colour and where it stands."""

    name: str  # imagined, real
    world: Prediction
    layout: Layout
    colour: tuple[int, int, int]
    offset: Float[np.ndarray, "3"]
    clouds: list[PointCloud]  # of every step that was imagined or recorded


def write_page(
    path: Path, prediction: Prediction, layout: Layout, *, real: Prediction | None = None, title: str = ""
) -> None:
    """Write the page. Raises ValueError without depth or calibration, ImportError without the ``view`` extra."""
    clouds = [fuse(prediction, layout, step) for step in range(len(prediction.state))]
    stage = _set_stage(clouds, prediction, layout, is_pair=real is not None)
    sides = [Side("imagined", prediction, layout, IMAGINED_RGB, np.zeros(3), clouds)]
    if real is not None:
        seen = [fuse(real, layout, step) for step in range(len(real.state))]
        sides.append(Side("real", real, layout, REAL_RGB, stage.offset, seen))
    with _viser_server() as server:
        _add_ground(server.scene, stage)
        server.initial_camera.position, server.initial_camera.look_at = stage.eye, stage.look_at
        server.initial_camera.fov = np.radians(45)
        recording = server.get_scene_serializer()
        for step in range(len(clouds)):
            when = _when(step / prediction.frame_hz)
            for side in sides:
                is_there = step < len(side.clouds)
                if is_there:
                    _add_step(server.scene, side, stage, step)
                words = f"{side.name}, {when}" if is_there else f"{side.name}: not recorded this far"
                _add_title(server.scene, side, stage, words)
            recording.insert_sleep(1 / prediction.frame_hz)
        page = recording.as_html()
    write_text(path, _with_card(page, title or prediction.instruction, prediction, stage, real is not None))


@contextmanager
def _viser_server() -> Iterator[Any]:
    """A silent viser server on this machine only; it lives as long as the page is being made."""
    try:
        import rich
        import viser
    except ImportError as error:
        raise ImportError("the 4D page needs viser: pip install 'xwam[view]'") from error
    console, was_quiet = rich.get_console(), rich.get_console().quiet
    console.quiet = True  # the server would print an address that nobody should open
    server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
    try:
        server.scene.set_up_direction("+z")
        server.scene.configure_environment_map(hdri=None)
        server.scene.configure_default_lights(enabled=True, cast_shadow=False)
        yield server
    finally:
        server.stop()
        console.quiet = was_quiet


def _set_stage(clouds: list[PointCloud], prediction: Prediction, layout: Layout, *, is_pair: bool) -> Stage:
    """Frame the middle 96 % of all points; the real world stands to the left of the imagined one."""
    points = np.concatenate([cloud.points for cloud in clouds]).astype(np.float64)
    if not len(points):
        raise ValueError("prediction.depth has no known pixel within the cameras' range: there is no cloud to show.")
    low, high = np.quantile(points, [0.02, 0.98], axis=0)
    middle, size = (low + high) / 2, float(np.linalg.norm(high - low))
    views = [i for i, camera in enumerate(prediction.cameras) if camera.is_calibrated]
    views = [i for i in views if prediction.cameras[i].is_static] or views
    poses = np.stack([camera_poses(prediction.cameras[i], prediction.state[0], layout) for i in views])
    backward = best_side(poses, [int((clouds[0].view == i).sum()) for i in views])
    right = np.cross([0, 0, 1.0], backward)
    along = points @ right
    width = float(np.quantile(along, 0.99) - np.quantile(along, 0.01))
    stand_width = 1.05 * float(np.ptp(poses[:, :3, 3] @ right))  # the worlds' cameras should not mix
    offset = -width * np.clip(stand_width / width, 1.3, 1.6) * right if is_pair else np.zeros(3)
    look_at = middle + offset / 2 + [0, 0, 0.05 * size]
    distance = max(1.5 * size, 0.95 * (width + np.linalg.norm(offset)))
    eye = look_at + distance * (0.86 * backward + np.array([0, 0, 0.62]))
    voxel_m = 0.002
    while len(thinned(clouds[0], voxel_m).points) > POINTS_PER_STEP:
        voxel_m *= 1.2
    return Stage(low, high, eye, look_at, offset, voxel_m)


def best_side(base_from_camera: Float[np.ndarray, "V 4 4"], num_points: list[int]) -> Float[np.ndarray, "3"]:
    """The horizontal axis from which most of the cloud was seen: that side has surfaces, and the grid lies straight.

    Of sides that saw about as much it is always the same one, so that pages of one robot can be compared.
    """
    backward = -base_from_camera[:, :3, 2]
    sides = np.array([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
    seen = np.maximum(sides @ backward.T, 0) @ np.array(num_points, dtype=np.float64)
    return sides[np.flatnonzero(seen >= ABOUT_AS_MUCH * seen.max())[0]]


def _add_ground(scene: Any, stage: Stage) -> None:
    """A grid of 0.1 m under everything, and the base frame's axes with their names."""
    low = np.minimum(stage.low, stage.low + stage.offset) - 2 * GRID_M
    high = np.maximum(stage.high, stage.high + stage.offset) + 2 * GRID_M
    low, high = np.floor(low / GRID_M) * GRID_M, np.ceil(high / GRID_M) * GRID_M
    scene.add_grid(
        "/grid of 0.1 m",
        *(high - low)[:2],
        cell_size=GRID_M,
        section_size=10 * GRID_M,
        cell_color=(228, 228, 228),
        section_color=(228, 228, 228),
        position=((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, stage.low[2] - 0.02),
        fade_strength=0,
    )
    scene.add_frame("/base frame", axes_length=AXES_M, axes_radius=0.004, origin_radius=0.008)
    for axis, name in enumerate("xyz"):
        scene.add_label(f"/base frame/{name}", name, position=1.15 * AXES_M * np.eye(3)[axis], anchor="center-center")


def _add_step(scene: Any, side: Side, stage: Stage, step: int) -> None:
    """One world at one time: nodes of the same name replace those of the step before."""
    scene.add_frame(f"/{side.name}", show_axes=False, position=side.offset)
    thin = thinned(side.clouds[step], stage.voxel_m)
    scene.add_point_cloud(
        f"/{side.name}/points",
        thin.points,
        thin.colours,
        point_size=1.25 * stage.voxel_m,
        point_shape="square",
        point_shading="flat",
    )
    size = float(np.linalg.norm(stage.high - stage.low))
    for view, camera in enumerate(side.world.cameras):
        if camera.is_calibrated:
            _add_camera(scene, side, view, step, size)
    for name, where in side.layout.hands:
        _add_path(scene, side, f"path of {name} hand", side.world.state[:, where].astype(np.float64), step, size)


def _add_camera(scene: Any, side: Side, view: int, step: int, size: float) -> None:
    """A camera where it is now, with the picture that it sees. ``size``: of the scene, in metres."""
    camera, video = side.world.cameras[view], side.world.video
    assert camera.intrinsics is not None
    assert video is not None
    pose = camera_poses(camera, side.world.state[step], side.layout)
    scene.add_camera_frustum(
        f"/{side.name}/camera {camera.name}",
        fov=float(2 * np.arctan(camera.height / 2 / camera.intrinsics[1, 1])),
        aspect=camera.width / camera.height,
        scale=size * (0.07 if camera.hand_from_camera is None else 0.04),
        thickness=1.5,
        thickness_units="screen",
        color=side.colour,
        image=video[view, step],
        format="jpeg",
        jpeg_quality=85,
        wxyz=quat_from_matrix(pose[:3, :3]),
        position=pose[:3, 3],
        cast_shadow=False,
    )


def _add_path(scene: Any, side: Side, name: str, path: Float[np.ndarray, "T 3"], step: int, size: float) -> None:
    """The whole path as a thin line, what is behind as a thick one, the hand now as a ball."""
    colour = np.array(side.colour)
    segments = np.stack([path[:-1], path[1:]], axis=1)
    for part, lines, thickness in (("all", segments, 1.5), ("so far", segments[:step], 5.0)):
        if len(lines):
            scene.add_line_segments(
                f"/{side.name}/{name}/{part}", lines, colour, thickness=thickness, thickness_units="screen"
            )
    scene.add_point_cloud(
        f"/{side.name}/{name}/now",
        path[step : step + 1],
        colour,
        point_size=0.03 * size,
        point_shape="circle",
        precision="float32",
    )


def _add_title(scene: Any, side: Side, stage: Stage, text: str) -> None:
    top = (stage.low + stage.high) / 2
    top[2] = stage.high[2] + 0.12 * np.linalg.norm(stage.high - stage.low)
    place = top + side.offset
    scene.add_label(f"/title of {side.name}", text, position=place, anchor="bottom-center", font_screen_scale=1.4)


def _when(seconds: float) -> str:
    return "now" if seconds == 0 else f"in {seconds:.1f} s"


def _with_card(page: str, title: str, prediction: Prediction, stage: Stage, is_pair: bool) -> str:
    """Put a small legend over the page: what is seen, which colour is what, how to move."""
    rows = [f'<b style="color:{css(IMAGINED_RGB)}">&#9679;</b> imagined: hand and cameras']
    if is_pair:
        shift = float(np.linalg.norm(stage.offset))
        rows.append(f'<b style="color:{css(REAL_RGB)}">&#9679;</b> real, drawn {shift:.1f} m to the left')
    rows.append(f"<small>squares of {GRID_M} m; axes of {AXES_M} m from the robot&rsquo;s base</small>")
    style = (
        "#xwam{position:fixed;top:.8em;right:.8em;z-index:2;max-width:20em;padding:.6em .9em;border-radius:.5em;"
        "background:#fffffff0;color:#222;font:14px/1.5 system-ui,sans-serif;box-shadow:0 1px 6px #0002}"
        "#xwam h1{font-size:1em;line-height:1.3;margin:0 0 .3em}#xwam summary{color:#555;cursor:pointer}"
        "#xwam p{margin:.3em 0 0;color:#444;font-size:.9em}"
        "@media(max-width:600px){#xwam{font-size:12px;max-width:14em}}"
    )
    card = (
        f'<style>{style}</style><div id="xwam"><h1>{html.escape(title)}</h1>{"<br>".join(rows)}'
        "<details><summary>units and keys</summary><p>Base frame, metres: x red, y green, z blue. "
        f"Axes {AXES_M} m, grid {GRID_M} m. The slider counts seconds of the robot&rsquo;s time "
        f"({prediction.frame_hz:g} images per second).</p>"
        "<p>Drag turns, right drag moves, wheel zooms, space plays. The tree at the bottom right lists everything "
        "in the scene and hides it.</p></details></div>"
    )
    page = page.replace("<title>Viser</title>", f"<title>{html.escape(title)}</title>", 1)
    end = page.rindex("</body>")
    return page[:end] + card + page[end:]
