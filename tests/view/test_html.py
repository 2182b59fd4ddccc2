import io
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.view.browser import CHROMIUM, WHY_NOT, Page
from tests.view.scene import LAYOUT, make_imagined, make_real
from xwam.view.html import best_side, write_page

PICTURES = os.environ.get("XWAM_PICTURES")  # a folder: keep a large screenshot there (`make pictures`)
SLIDER = """(() => {
  const box = document.querySelector('.mantine-Slider-root').getBoundingClientRect();
  return [box.x, box.y + box.height / 2, box.width];
})()"""


def write_pair(path: Path, num_steps: int, size: int) -> Path:
    """A page whose real world ends two steps before the imagined one."""
    world = make_real(num_steps=num_steps, size=size)
    seen = slice(num_steps - 2)
    real = replace(world, video=world.video[:, seen], depth=world.depth[:, seen], state=world.state[seen])
    write_page(path, make_imagined(world), LAYOUT, real=real, title="Push <it>")
    return path


def test_one_page_small_enough_to_mail(tmp_path):
    path = write_pair(tmp_path / "world.html", num_steps=9, size=128)
    assert [p.name for p in tmp_path.iterdir()] == ["world.html"]
    assert 1e6 < path.stat().st_size < 8e6
    text = path.read_text()
    assert "Push &lt;it&gt;" in text
    assert "Axes 0.15 m, grid 0.1 m" in text
    assert "<title>Push &lt;it&gt;</title>" in text


def test_pages_of_one_robot_are_seen_from_one_side():
    """Two static cameras that face each other: a few points more or less do not turn the world around."""
    poses = np.stack([np.eye(4)] * 2)
    poses[0, :3, :3], poses[1, :3, :3] = looking_along([-1, 0, 0]), looking_along([1, 0, 0])
    for num_points in ([100, 110], [110, 100], [100, 100]):
        np.testing.assert_array_equal(best_side(poses, num_points), [1, 0, 0])
    np.testing.assert_array_equal(best_side(poses, [100, 200]), [-1, 0, 0])


def looking_along(forward: list[float]) -> np.ndarray:
    right = np.cross(forward, [0, 0, 1.0])
    return np.stack([right, np.cross(forward, right), forward], axis=1)


def test_nothing_is_printed(tmp_path, capfd):
    write_page(tmp_path / "one.html", make_real(num_steps=2, size=32), LAYOUT)
    out, error = capfd.readouterr()
    assert (out, error) == ("", "")
    assert "drawn" not in (tmp_path / "one.html").read_text()[-5000:]


def test_doors_refuse(tmp_path):
    world = make_real(num_steps=2, size=16)
    with pytest.raises(ValueError, match="no known pixel"):
        write_page(tmp_path / "x.html", replace(world, depth=np.zeros_like(world.depth)), LAYOUT)
    with pytest.raises(ValueError, match="actions only"):
        write_page(tmp_path / "x.html", replace(world, depth=None, video=None), LAYOUT)
    assert list(tmp_path.iterdir()) == []


def settled(page: Page) -> np.ndarray:
    """The screen once it no longer changes."""
    deadline, last = time.monotonic() + 40, b""
    while time.monotonic() < deadline:
        picture = page.screenshot()
        if picture == last:
            break
        last = picture
        time.sleep(0.4)
    return np.asarray(Image.open(io.BytesIO(last)).convert("RGB")).astype(int)


@pytest.mark.skipif(CHROMIUM is None, reason=WHY_NOT)
def test_a_person_opens_the_page_and_moves_the_slider(tmp_path):
    num_steps, size, window = (9, 128, (1280, 720)) if PICTURES else (5, 64, (640, 480))
    path = write_pair(tmp_path / "world.html", num_steps, size)
    with Page(*window) as page:
        page.open(path, "document.querySelector('canvas') && document.querySelector('.mantine-Slider-root')")
        left, middle, width = page.run(SLIDER)
        screens = []
        for share in (0.02, 0.5, 0.9):
            page.click(left + share * width, middle)
            screens.append(settled(page)[: int(middle) - 20])
        first, later, last = screens
        if PICTURES:
            page.run("document.querySelectorAll('.mantine-Notification-closeButton').forEach(b => b.click())")
            page.click(left + 0.5 * width, middle)
            settled(page)
            page.screenshot(Path(PICTURES) / "world.png")
        colourful = np.ptp(first, axis=-1) > 40
        assert colourful.mean() > 0.03, "the cloud is not on the screen"
        for a, b in ((first, later), (later, last)):
            changed = (np.abs(a - b).max(axis=-1) > 30).mean()
            assert changed > 0.01, "moving the slider did not change the picture"
        assert page.outside_requests() == []
        assert page.errors == []
