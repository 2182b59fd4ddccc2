"""What a robot would score that does nothing: the least that a policy must beat."""

import numpy as np

from tests.examples import make_clip
from xwam.evaluate.clips import standing_still
from xwam.presets import preset
from xwam.robot.layout import layout_slices
from xwam.robot.parts import CameraSource, PartSource
from xwam.robot.robot_json import RobotConfig, layout_of

ROBOT = RobotConfig(
    name="both",
    action_hz=20.0,
    state=(
        PartSource(what="joints", key="s", size=6),
        PartSource(what="gripper", key="s", start=6),
        PartSource(what="position", arm="right", key="s", start=7),
        PartSource(what="rotation", arm="right", key="s", start=10),
    ),
    action=(
        PartSource(what="joints", key="a", size=6),
        PartSource(what="gripper", key="a", start=6),
        PartSource(what="position", arm="right", key="a", start=7, reference="delta"),
    ),
    cameras=(CameraSource(name="front", key="front"),),
)


def test_standing_still_is_no_change_and_joints_as_they_are():
    layout, clip = layout_of(ROBOT), make_clip(preset("debug"))
    still = standing_still(clip, layout)
    parts = {part.name: still[:, where] for part, where in layout_slices(layout.action) if part.is_used}
    np.testing.assert_array_equal(parts["left_joints"], np.tile(clip.state[0, :6], (len(still), 1)))
    np.testing.assert_array_equal(parts["left_gripper"], np.tile(clip.action[0, 6:7], (len(still), 1)))
    assert not parts["right_position"].any()
