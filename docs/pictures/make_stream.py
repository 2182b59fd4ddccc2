"""Draw docs/pictures/stream.svg: the path of data through the rooms (python docs/pictures/make_stream.py)."""

from pathlib import Path

BOXES = {  # name: (x, y, width, colour, second line)
    "episodes": (10, 20, 120, "#e8eef7", "files on disk"),
    "data": (160, 20, 100, "#cfe0f5", "read, cut, augment"),
    "Clip": (290, 20, 90, "#fff3d6", "training sample"),
    "Observation": (250, 150, 130, "#fff3d6", "cameras, state, words"),
    "encode": (410, 85, 100, "#cfe0f5", "units to tensors"),
    "model": (540, 85, 100, "#f7d9c4", "one transformer"),
    "train": (540, 5, 100, "#cfe0f5", "loss, step, save"),
    "denoise": (670, 85, 110, "#f7d9c4", "10 steps, 50 steps"),
    "Prediction": (810, 85, 120, "#fff3d6", "actions, then 4D world"),
    "serve": (960, 20, 100, "#d7ecd9", "to the robot"),
    "evaluate": (960, 85, 100, "#d7ecd9", "numbers"),
    "view": (960, 150, 100, "#d7ecd9", "point cloud, page"),
}
HEIGHT = 46
ARROWS = [
    ("episodes", "data"), ("data", "Clip"), ("Clip", "encode"), ("Observation", "encode"), ("encode", "model"),
    ("model", "denoise"), ("denoise", "Prediction"), ("Prediction", "serve"), ("Prediction", "evaluate"),
    ("Prediction", "view"), ("train", "model"),
]  # fmt: skip


def main() -> None:
    """Write the picture beside this file."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1070 210" font-family="sans-serif" font-size="14">',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#445"/></marker></defs><rect width="1070" height="210" fill="white"/>',
    ]
    for start, end in ARROWS:
        (x0, y0, w0, *_), (x1, y1, _, *_) = BOXES[start], BOXES[end]
        if start == "train":
            path = f"M{x0 + w0 / 2} {y0 + HEIGHT}L{x1 + w0 / 2} {y1 - 2}"
        else:
            path = f"M{x0 + w0} {y0 + HEIGHT / 2}L{x1 - 2} {y1 + HEIGHT / 2}"
        parts.append(f'<path d="{path}" stroke="#445" stroke-width="1.5" fill="none" marker-end="url(#a)"/>')
    for name, (x, y, width, colour, line) in BOXES.items():
        parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{HEIGHT}" rx="8" fill="{colour}" stroke="#889"/>')
        parts.append(f'<text x="{x + width / 2}" y="{y + 20}" text-anchor="middle" font-weight="bold">{name}</text>')
        parts.append(f'<text x="{x + width / 2}" y="{y + 37}" text-anchor="middle" font-size="10">{line}</text>')
    Path(__file__).with_name("stream.svg").write_text("\n".join([*parts, "</svg>"]) + "\n")


if __name__ == "__main__":
    main()
