import base64
import io
import re
import time
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.view.browser import CHROMIUM, WHY_NOT, Page
from tests.view.scene import LAYOUT, make_imagined, make_real
from xwam.evaluate.metrics import psnr
from xwam.evaluate.report import write_report
from xwam.evaluate.report_charts import Totals
from xwam.evaluate.report_episode import Decision, EpisodeReport, best_median_worst, decision_scores, latencies
from xwam.evaluate.report_pictures import strip
from xwam.evaluate.report_plots import Line, histogram, interval_chart, line_chart, path_plot
from xwam.robot.layout import two_arm_layout
from xwam.view.html import write_page


def cut(world, start, stop):
    window = slice(start, stop)
    return replace(world, video=world.video[:, window], depth=world.depth[:, window], state=world.state[window])


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    """Two episodes; each decision imagines 5 frames, of which 3 are played before the next decision."""
    whole = make_real(num_steps=9, size=48)
    found = []
    for number in range(2):
        decisions = []
        for start in (0, 2):
            real = cut(whole, start, start + 5)
            imagined = make_imagined(real, seed=10 * number + start)
            decisions.append(Decision(imagined=imagined, real=cut(real, 0, 3)))
        found.append(
            EpisodeReport(
                task="push-v3" if number else "reach-v3",
                instruction="push the <red> box",
                seed=number,
                success=number == 1,
                num_steps=16,
                layout=LAYOUT,
                decisions=decisions,
            )
        )
    return found


@pytest.fixture(scope="module")
def report_file(episodes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "pages").mkdir()
    (folder / "pages" / "world 1.html").write_text("<title>4D</title>")
    first = replace(episodes[0].decisions[0], page=folder / "pages" / "world 1.html")
    episodes = [replace(episodes[0], decisions=[first, *episodes[0].decisions[1:]]), *episodes[1:]]
    write_report(
        folder / "report.html",
        episodes,
        {"title": "Test", "chamfer_m": 0.0061, "details": [0.123456, True, {"xwam": "0.1"}]},
    )
    return folder / "report.html"


def test_scores_are_those_of_the_steps_that_happened(episodes):
    decision = episodes[0].decisions[0]
    scores = decision_scores(decision, LAYOUT)
    expected = psnr(decision.imagined.video[:2, 1:3], decision.real.video[:2, 1:3]).mean(axis=0)
    np.testing.assert_allclose(scores["psnr_db"], expected)
    assert 0 < scores["abs_rel"] < 0.02
    drift = np.linalg.norm(decision.imagined.state[1:3, :3] - decision.real.state[1:, :3], axis=1)
    np.testing.assert_allclose(scores["path_m"], drift, rtol=1e-5)
    moved = np.linalg.norm(decision.real.state[1:, :3] - decision.real.state[0, :3], axis=1)
    np.testing.assert_allclose(scores["path_copy_m"], moved, rtol=1e-5)


def test_depth_beyond_the_range_of_a_camera_is_not_scored(episodes):
    decision = episodes[0].decisions[0]
    unknown, far = (replace(decision.real, depth=decision.real.depth.copy()) for _ in range(2))
    unknown.depth[:, :, :8] = 0
    far.depth[:, :, :8] = 2 * max(camera.far_m for camera in far.cameras)
    expected, found = (decision_scores(replace(decision, real=real), LAYOUT)["abs_rel"] for real in (unknown, far))
    assert found == expected


def test_no_scores_without_a_comparison(episodes):
    decision = episodes[0].decisions[0]
    assert decision_scores(replace(decision, real=None), LAYOUT) == {}
    assert decision_scores(replace(decision, imagined=replace(decision.imagined, video=None)), LAYOUT) == {}
    assert decision_scores(replace(decision, real=cut(decision.real, 0, 1)), LAYOUT) == {}


def test_latencies_end_with_their_stage(episodes):
    world = replace(episodes[0].decisions[0].imagined, seconds={"encode": 1.0, "actions": 2.0, "world": 4.0})
    assert latencies(world) == (3.0, 7.0)
    assert latencies(replace(world, seconds={"all": 2.0})) == (2.0, 2.0)


def test_a_strip_holds_every_frame(episodes):
    video = episodes[0].decisions[0].imagined.video
    found = re.findall(r"data:image/webp;base64,([^\"]+)", strip(video, "x"))
    assert len(found) == video.shape[1]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[2]))).convert("RGB")).astype(int)
    white = np.full((48, 1, 3), 255)
    expected = np.concatenate([video[0, 2], white, video[1, 2], white, video[2, 2]], axis=1)
    assert picture.shape == expected.shape
    assert np.abs(picture - expected).mean() < 8


def test_large_images_are_made_smaller():
    big = np.zeros((2, 1, 512, 200, 3), dtype=np.uint8)
    found = re.findall(r"base64,([^\"]+)", strip(big, "x"))
    assert Image.open(io.BytesIO(base64.b64decode(found[0]))).size == (202, 256)


def points_of(svg):
    """All curves of a plot, in pixels."""
    curves = ET.fromstring(svg).iter("polyline")
    return [np.array([[float(x) for x in p.split(",")] for p in c.get("points").split()]) for c in curves]


def test_paths_have_equal_scales():
    """A square in space is a square on paper."""
    square = np.array([[0, 0], [0.1, 0], [0.1, 0.1], [0, 0.1]])
    sides = np.abs(np.diff(points_of(path_plot([Line("a", square, "#000")], "x", "y"))[0], axis=0)).max(axis=1)
    np.testing.assert_allclose(sides, sides[0], atol=0.15)


def test_a_path_that_stands_still_can_be_drawn():
    assert "polyline" in path_plot([Line("a", np.zeros((3, 2)), "#000")], "x", "y")


def test_charts_leave_out_what_is_no_number():
    curve = np.array([[0.2, 30.0], [0.4, np.nan], [0.6, 20.0]])
    assert len(points_of(line_chart([Line("a<b", curve, "#000")], "s", "dB"))[0]) == 2
    assert "a&lt;b" in line_chart([Line("a<b", curve, "#000")], "s", "dB")
    assert "nothing to show" in line_chart([Line("a", np.full((2, 2), np.nan), "#000")], "s", "dB")
    ET.fromstring(histogram([1.0, 1.0], "ms"))
    ET.fromstring(interval_chart([("a<b", 0.1, 0.5, 0.9)]))


def test_the_page_says_what_happened(report_file):
    text = report_file.read_text()
    assert [p.name for p in report_file.parent.glob("*.html")] == ["report.html"]
    assert "push the &lt;red&gt; box" in text
    assert "1 <small>of 2</small>" in text
    assert "true rate 9% to 91% (95 %)" in text
    assert "6.1 <small>mm</small>" in text
    assert 'href="pages/world%201.html"' in text
    assert "<td>details</td><td>0.1235, yes, xwam 0.1</td>" in text
    assert "http" not in re.sub(r"base64,[^\"]+", "", text)


def test_two_hands_have_a_row_of_paths_each(tmp_path, episodes):
    def doubled(world):
        return replace(world, state=np.tile(world.state[:, :8], 2))

    both = [replace(d, imagined=doubled(d.imagined), real=doubled(d.real)) for d in episodes[0].decisions]
    pair = replace(episodes[0], layout=two_arm_layout("pair"), decisions=both)
    for shown, rows in ((episodes[:1], 1), ([pair], 2)):
        write_report(tmp_path / "report.html", shown, {"title": "t"})
        page = (tmp_path / "report.html").read_text()
        paths = page[page.index("Path of the hand") :]
        assert paths.count('<div class="charts">') == rows
        assert ("left hand" in paths, "right hand" in paths) == (rows == 2, rows == 2)


def test_actions_only_episodes_are_reported_too(tmp_path, episodes):
    """A fast run never computes the world: still success, paths and times."""
    bare = replace(
        episodes[0].decisions[0], imagined=replace(episodes[0].decisions[0].imagined, video=None, depth=None)
    )
    write_report(tmp_path / "r.html", [replace(episodes[0], decisions=[replace(bare, real=None)])], {})
    text = (tmp_path / "r.html").read_text()
    assert "Only actions were asked for" in text
    assert "<svg" in text
    write_report(tmp_path / "r.html", [replace(episodes[0], decisions=[])], {})
    assert "0 <small>of 1</small>" in (tmp_path / "r.html").read_text()


def test_doors_refuse(tmp_path, episodes):
    with pytest.raises(ValueError, match="at least one episode"):
        write_report(tmp_path / "r.html", [], {})
    with pytest.raises(ValueError, match=r"end in \.html"):
        write_report(tmp_path / "r.txt", episodes, {})


def test_the_top_may_be_about_more_than_what_is_shown(tmp_path, episodes):
    """Three episodes of forty are shown, but plots and tiles count all forty."""
    totals = Totals(
        tasks={"push-v3": (30, 40)},
        action_seconds=[0.1, 0.2, 0.3, 0.4],
        per_step={"abs_rel": [0.1, 0.2], "abs_rel_copy": [0.2, 0.3], "chamfer_m": [0.004, 0.005]},
        frame_hz=5.0,
    )
    scores = {"abs_rel": 0.15, "abs_rel_copy": 0.25, "abs_rel_teacher_aligned": 0.5, "chamfer_m": 0.0045}
    scores |= {"path_m": 0.02, "path_copy_m": 0.25, "path_rotation_rad": np.pi / 90, "action_rotation_copy_rad": 0.0}
    scores |= {"action_gripper": 0.125}
    scores["standard_error"] = {"abs_rel_copy": float("nan"), "chamfer_m": 0.0012}
    write_report(tmp_path / "r.html", [replace(episodes[0], label="Best of 40")], scores, totals=totals)
    text = (tmp_path / "r.html").read_text()
    assert "Best of 40: reach-v3" in text
    assert "30 <small>of 40</small>" in text
    assert "250 <small>ms</small>" in text
    assert "mean, of the true depth; last frame copied: 25.0" in text
    assert "<tr><td>AbsRel</td><td>0.1500 </td><td>0.2500 </td><td>0.5000 </td></tr>" in text
    assert "<tr><td>Chamfer distance</td><td>4.5 &plusmn; 1.2 mm</td><td></td><td></td></tr>" in text
    assert "imagined from executed; hand stays where it is: 25.0" in text
    for row in (
        "hand path error, rotation</td><td>2.00 degrees",
        "action error, rotation per step</td><td></td><td>0.00",
    ):
        assert row in text
    assert "<td>action error, gripper per step</td><td>0.125 " in text
    assert text.count("<polyline") >= 3 + 1  # AbsRel and its baseline, Chamfer; the median of the histogram
    assert "ms until the actions" in text


def test_a_recording_that_nobody_played_has_no_verdict(tmp_path, episodes):
    write_report(tmp_path / "r.html", [replace(episodes[0], success=None)], {})
    text = (tmp_path / "r.html").read_text()
    assert "Success" not in text
    assert 'class="badge' not in text


def test_best_median_and_worst():
    assert best_median_worst([3.0, 1.0, 2.0]) == [("Best of 3", 0), ("Median of 3", 2), ("Worst of 3", 1)]
    assert best_median_worst([1.0, 2.0]) == [("Best of 2", 1), ("Median of 2", 0)]
    assert best_median_worst([1.0]) == [("Best of 1", 0)]


@pytest.fixture(scope="module")
def report_alone(episodes, tmp_path_factory):
    """A report with its 4D page inside; the page itself is gone."""
    folder = tmp_path_factory.mktemp("alone")
    decision = episodes[0].decisions[0]
    write_page(folder / "world.html", decision.imagined, LAYOUT, real=decision.real)
    shown = replace(episodes[0], decisions=[replace(decision, page=folder / "world.html")])
    write_report(folder / "report.html", [shown], {}, is_alone=True)
    (folder / "world.html").unlink()
    return folder / "report.html"


SCENE = "document.querySelector('div.world iframe')?.contentDocument"


@pytest.mark.skipif(CHROMIUM is None, reason=WHY_NOT)
def test_a_person_opens_the_4d_page_inside_the_report(report_alone):
    with Page(900, 900) as page:
        page.open(report_alone, "document.readyState === 'complete'")
        page.run("document.querySelector('button.world').click()")
        page.wait(f"{SCENE}?.querySelector('canvas') && {SCENE}.querySelector('.mantine-Slider-root')")
        time.sleep(2)
        box = page.run("(() => { const b = document.querySelector('iframe').getBoundingClientRect();"
                       " return [b.x, b.y, b.width, b.height].map(Math.round); })()")  # fmt: skip
        screen = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
        inside = screen[box[1] : box[1] + box[3], box[0] : box[0] + box[2]]
        assert (np.ptp(inside, axis=-1) > 40).mean() > 0.01, "the cloud is not in the report"
        page.run("document.querySelector('button.world').click()")
        assert page.run("document.querySelectorAll('iframe').length") == 0
        assert page.outside_requests() == []
        assert page.errors == []


SHOWN = """[...document.querySelectorAll('.card .strip')].map(
  strip => [...strip.children].findIndex(picture => picture.classList.contains('on')))"""


@pytest.mark.skipif(CHROMIUM is None, reason=WHY_NOT)
def test_a_person_opens_the_report_and_moves_a_slider(report_file):
    with Page(1000, 800) as page:
        page.open(report_file, "document.readyState === 'complete' && document.images[0].naturalWidth > 0")
        assert page.run(SHOWN)[:4] == [2, 2, 2, 2]  # the last step that really happened
        before = page.screenshot(full=True)
        page.run("document.querySelector('input[type=range]').focus()")
        for _ in range(2):
            page.key("ArrowRight", 39)
        assert page.run(SHOWN)[:4] == [2, 4, 2, 4]  # the real video ends; the imagined one goes on
        assert page.run("document.querySelectorAll('.strip.over').length") == 2
        assert page.run("document.querySelector('output').value") == "in 0.8 s"
        assert page.screenshot(full=True) != before
        page.run("document.querySelector('.player button').click()")
        page.wait("document.querySelector('output').value === 'in 0.2 s'", timeout_s=5)
        page.send("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
        assert page.run("document.documentElement.scrollWidth") <= 360, "the page is wider than a phone"
        assert page.outside_requests() == []
        assert page.errors == []
