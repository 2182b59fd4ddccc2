"""MuJoCo pictures: RGB and metric depth of one camera from one render pass.

All renderers of a process share one OpenGL context: several contexts disturb each other.
Shadows, reflections and multisampling are off (about five times faster, and depth edges stay sharp).
"""

import atexit
import functools
import glob
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8

NEAR_M, FAR_M = 0.01, 20.0  # clipping planes; wide enough for every camera
INSTALL = "run `pip install 'xwam[sim]'`."
GL_ADVICE = (
    "install OpenGL for pictures without a screen: `apt-get install -y libosmesa6 libegl1 libgl1`, and choose with "
    "MUJOCO_GL=osmesa (any CPU) or MUJOCO_GL=egl (GPU)."
)


class Marker(NamedTuple):
    """A ball drawn into the picture: metres, colour in [0, 1]."""

    position: Float[np.ndarray, " 3"]
    radius: float
    rgba: tuple[float, float, float, float]


def load_mujoco() -> ModuleType:
    """Import mujoco with an OpenGL that works without a screen. Raises ImportError with what to do."""
    if sys.platform == "linux":
        # mujoco and PyOpenGL read these once, at import.
        os.environ.setdefault("MUJOCO_GL", "egl" if glob.glob("/dev/nvidia[0-9]*") else "osmesa")
        if os.environ["MUJOCO_GL"] in ("osmesa", "egl"):
            os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])
    try:
        import mujoco
    except ModuleNotFoundError as error:
        raise ImportError(f"{error.name} is not installed: {INSTALL}") from error
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        raise ImportError(f"MUJOCO_GL={os.environ.get('MUJOCO_GL')!r} does not work ({error}): {GL_ADVICE}") from error
    return mujoco


@functools.cache
def _shared_context() -> Any:
    mujoco = load_mujoco()
    kind = os.environ.get("MUJOCO_GL", "")
    try:
        # mujoco.GLContext was settled when mujoco was imported, maybe before MUJOCO_GL was chosen here.
        home = importlib.import_module(f"mujoco.{kind}") if kind in ("osmesa", "egl") else mujoco
        context = home.GLContext(64, 64)  # pictures have their own buffers; this size does not matter
        context.make_current()
        atexit.register(_shared_context.cache_clear)  # later, what freeing it needs is gone
    except (AttributeError, ImportError, OSError, RuntimeError) as error:
        raise ImportError(f"MUJOCO_GL={os.environ.get('MUJOCO_GL')!r} does not work ({error}): {GL_ADVICE}") from error
    return context


class Renderer:
    """Pictures of one MuJoCo model. Geom groups 0 to 2 are shown but for ``hidden_groups``, sites are not."""

    def __init__(self, model: Any, *, width_px: int, height_px: int, hidden_groups: Sequence[int] = ()) -> None:
        self._mujoco = mujoco = load_mujoco()
        self._model = model
        extent = model.stat.extent  # the clipping planes are stored in units of it
        model.vis.map.znear, model.vis.map.zfar = NEAR_M / extent, FAR_M / extent
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        model.vis.global_.offwidth, model.vis.global_.offheight = width_px, height_px
        _shared_context().make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 100)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._option = mujoco.MjvOption()
        self._option.sitegroup[:] = 0
        for group in hidden_groups:
            self._option.geomgroup[group] = 0
        self._viewport = mujoco.MjrRect(0, 0, width_px, height_px)

    def render(
        self, data: Any, camera: str, markers: Sequence[Marker] = ()
    ) -> tuple[UInt8[np.ndarray, "H W 3"], Float32[np.ndarray, "H W"]]:
        """RGB and z-depth in metres (the far plane where nothing is) as this camera of the model sees them."""
        mujoco, height, width = self._mujoco, self._viewport.height, self._viewport.width
        view = mujoco.MjvCamera()
        view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, self._model.camera(camera).id
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, data, self._option, None, view, everything, self._scene)
        for marker in markers:
            self._draw(marker)
        rgb = np.empty((height, width, 3), dtype=np.uint8)
        depth = np.empty((height, width), dtype=np.float32)
        _shared_context().make_current()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        mujoco.mjr_readPixels(rgb, depth, self._viewport, self._context)
        metres = NEAR_M / (1 - depth.astype(np.float64) * (1 - NEAR_M / FAR_M))
        return np.ascontiguousarray(rgb[::-1]), np.ascontiguousarray(metres[::-1], dtype=np.float32)

    def close(self) -> None:
        """Free the buffers."""
        _shared_context().make_current()
        self._context.free()

    def _draw(self, marker: Marker) -> None:
        geom = self._scene.geoms[self._scene.ngeom]
        ball = self._mujoco.mjtGeom.mjGEOM_SPHERE
        size, rotation = np.full(3, marker.radius), np.eye(3).ravel()
        self._mujoco.mjv_initGeom(geom, ball, size, marker.position, rotation, np.array(marker.rgba, dtype=np.float32))
        self._scene.ngeom += 1
