"""Draw the figures of the README and of the documentation from the results of scripts/demo.sh.

python scripts/docs_figures.py .demo docs/_static/images
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from dwiml import visualize_logs
from dwiml.cli import show_loss, show_tractogram
from dwiml.viz.figure_file import save_figure
from dwiml.viz.pieces import DrawnTractogram
from dwiml.viz.tractograms import plot_tractograms

STREAMLINES_OF_A_BUNDLE = 25
DPI = 110


def draw_bundles(subject: Path, out: Path) -> None:
    """Draw a subject's bundles, seen from behind and from above."""
    bundles = [
        DrawnTractogram.from_file(path, color="direction", max_streamlines=STREAMLINES_OF_A_BUNDLE)
        for path in sorted((subject / "bundles").glob("*.trk"))
    ]
    figure = plot_tractograms(bundles, views=["coronal", "axial"], title="Bundles of an example subject")
    save_figure(figure, out, dpi=DPI)


def draw_loss(experiment: Path, subject: Path, out: Path) -> None:
    """Draw a model's loss along a subject's streamlines, with the commands that the documentation tells of."""
    with tempfile.TemporaryDirectory() as folder:
        commands = [
            (show_loss.main, [str(experiment), subject.name, folder]),
            (
                show_tractogram.main,
                [f"{folder}/loss.trk", str(out), "--color", "loss", "--background", f"{subject}/metrics/fa.nii.gz"]
                + ["--max_streamlines", "600", "--title", f"Loss along the streamlines of {subject.name}"]
                + ["--dpi", str(DPI), "-f"],
            ),
        ]
        for command, arguments in commands:
            if command(arguments):
                raise SystemExit(f"'{' '.join(arguments)}' failed.")


def main() -> None:
    """Draw all figures."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description="Draw the figures of the README and of the documentation."
    )
    parser.add_argument("demo", type=Path, help="what scripts/demo.sh made")
    parser.add_argument("out", type=Path, help="folder of the images")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    subjects, experiment = args.demo / "phantom" / "subjects", args.demo / "experiments" / "learn2track"
    draw_bundles(subjects / "sub-01", args.out / "phantom.png")
    visualize_logs([experiment], out=args.out / "curves.png", show=False, overwrite=True)
    draw_loss(experiment, subjects / "sub-05", args.out / "loss.png")


if __name__ == "__main__":
    main()
