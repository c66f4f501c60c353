"""Draw the figures of the README and of the documentation from the results of scripts/demo.sh.

python scripts/docs_figures.py .demo docs/_static/images
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from dwiml import visualize_logs

EVERY = 12


def draw_bundles(ax: Axes, subject: Path, across: int) -> None:
    """Draw a subject's streamlines over the sum of its white matter, seen along one world axis."""
    first, second = (axis for axis in range(3) if axis != across)
    segments, colours = [], []
    for path in sorted((subject / "bundles").glob("*.trk")):
        for line in nib.streamlines.load(path).streamlines[::EVERY]:
            steps = np.diff(line, axis=0)
            segments.append(np.stack([line[:-1], line[1:]], axis=1)[:, :, [first, second]])
            colours.append(np.abs(steps) / np.linalg.norm(steps, axis=1, keepdims=True))
    ax.add_collection(LineCollection(list(np.concatenate(segments)), colors=np.concatenate(colours), linewidths=0.5))
    ax.autoscale()
    ax.set_aspect("equal")
    ax.set_facecolor("black")
    names = "xyz"
    ax.set_xlabel(f"{names[first]} (mm)")
    ax.set_ylabel(f"{names[second]} (mm)")


def main() -> None:
    """Draw both figures."""
    parser = argparse.ArgumentParser(description="Draw the figures of the README and of the documentation.")
    parser.add_argument("demo", type=Path, help="what scripts/demo.sh made")
    parser.add_argument("out", type=Path, help="folder of the images")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    for ax, across, title in zip(figure.subplots(1, 2), (1, 2), ("Seen from behind", "Seen from above"), strict=True):
        draw_bundles(ax, args.demo / "phantom" / "subjects" / "sub-01", across)
        ax.set_title(title)
    figure.suptitle("Bundles of an example subject (red: left-right, green: front-back, blue: up-down)")
    figure.savefig(args.out / "phantom.png", dpi=110)
    visualize_logs([args.demo / "experiments" / "learn2track"], out=args.out / "curves.png", show=False, overwrite=True)


if __name__ == "__main__":
    main()
