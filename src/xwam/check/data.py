"""Find the silent mistakes of a data set in seconds, before any weights load.

In: a LeRobot data set or HDF5 files, and the robot.json that explains them (our own need none). Out: findings, each
with what is wrong and what to do. All checks come in order; a step that cannot be done is a finding itself.
"""

from pathlib import Path

from xwam.check.data_actions import check_actions
from xwam.check.data_cameras import check_cameras
from xwam.check.data_files import check_files
from xwam.check.data_motion import check_motion
from xwam.check.data_pictures import check_pictures
from xwam.check.data_subject import Finding, open_subject
from xwam.robot.robot_json import RobotConfig

MOST_EPISODES = 200  # numbers are compared in so many episodes


def check_data(root: Path, robot: RobotConfig | None = None) -> list[Finding]:
    """Everything that can be found out without a model. Raises FileNotFoundError when there is no data set."""
    findings: list[Finding] = []
    try:
        findings += check_files(root, robot)
        subject = open_subject(root, robot, MOST_EPISODES)
        findings += check_motion(subject)
        findings += check_actions(subject)
        findings += check_pictures(subject)
        findings += check_cameras(subject)
        words = {subject.episodes.row(number).instruction for number in range(subject.episodes.num_episodes)}
        findings.append(Finding("fine", "words", f"{len(words)} different instructions, such as {min(words)!r}"))
    except ValueError as error:
        findings.append(Finding("wrong", "reading", str(error)))
    return findings


def is_wrong(findings: list[Finding]) -> bool:
    """True when something must be corrected before training."""
    return any(finding.level == "wrong" for finding in findings)
