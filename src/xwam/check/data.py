"""All checks of a data set, in order; a step that cannot be done is a finding itself."""

from pathlib import Path

from xwam.check.data_actions import check_actions
from xwam.check.data_files import Finding, check_files, open_subject
from xwam.check.data_motion import check_motion
from xwam.check.data_pictures import check_pictures
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
        words = {subject.episodes.row(number).instruction for number in range(subject.episodes.num_episodes)}
        findings.append(Finding("fine", "words", f"{len(words)} different instructions, such as {min(words)!r}"))
    except ValueError as error:
        findings.append(Finding("wrong", "reading", str(error)))
    return findings


def is_wrong(findings: list[Finding]) -> bool:
    """True when something must be corrected before training."""
    return any(finding.level == "wrong" for finding in findings)
