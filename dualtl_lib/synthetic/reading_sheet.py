"""Sheets of synthetic faces without labels, for people to name the expressions.

`python -m dualtl_lib.synthetic.reading_sheet 2026 2027 --folder docs` writes `faces_sheet_2026.png` with numbered
faces and `faces_key_2026.json` with their expressions, and the same for 2027.
"""

import argparse
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from dualtl_lib import paper
from dualtl_lib.data import crop
from dualtl_lib.synthetic import sequences

SIDE, COLUMNS, MARGIN, CAPTION = 200, 6, 4, 22  # pixels of a face, faces in a row, pixels between and above them
PEAKS = 5  # last frames of a sequence that a run takes, as data.ckplus.paper_images does


class Drawn(NamedTuple):
    """A face of a sheet."""

    expression: str
    frame: str  # subject/sequence/frame, as in the data set's file names
    pixels: np.ndarray  # uint8 [227, 227]


def draw(seed: int, *, n_images: int = 24, subjects: int = sequences.CKPLUS_SUBJECTS) -> list[Drawn]:
    """Draw faces at random from the neutral and peak frames of a synthetic CK+.

    Each face's expression is drawn first, all with the same chance, so that nobody can name the last faces by counting.

    Args:
        seed: Of the data set, as in `sequences.write_ckplus`, and of the choice.
        n_images: How many faces.
        subjects: How many people the data set has.

    Returns:
        The faces as the network sees them, in the order of the sheet.
    """
    rng = np.random.default_rng([seed, 9])
    recorded = [
        (who, number, emotion)
        for who, emotions in enumerate(sequences.ckplus_plan(subjects, seed))
        for number, emotion in enumerate(emotions, 1)
    ]
    drawn = []
    for expression in rng.choice(paper.EXPRESSIONS, n_images).tolist():
        fitting = [s for s in recorded if expression in ("neutral", s[2])]
        who, number, emotion = fitting[rng.integers(len(fitting))]
        sequence = sequences.ckplus_sequence(seed, who, number, emotion)
        last = len(sequence.frames)
        frame = 1 if expression == "neutral" else last - int(rng.integers(PEAKS))
        pixels = Image.fromarray(sequences.draw_frame(sequence, sequence.frames[frame - 1])[0])
        x, y, side = sequence.frames[frame - 1].box
        square = crop.resize(pixels.convert("RGB"), crop.squared(x, y, side, side, pixels.size))[0]
        drawn.append(Drawn(expression, f"S{who + 5:03d}/{number:03d}/{frame:08d}", square))
    return drawn


def write(folder: str | os.PathLike, seed: int, *, n_images: int = 24) -> tuple[Path, Path]:
    """Write a numbered sheet and its key.

    Args:
        folder: Where to; made if it does not exist.
        seed: Of the data set and of the choice.
        n_images: How many faces.

    Returns:
        The sheet, PNG, and the key, JSON.
    """
    drawn = draw(seed, n_images=n_images)
    rows = -(-n_images // COLUMNS)
    sheet = Image.new("L", (COLUMNS * (SIDE + MARGIN) + MARGIN, rows * (SIDE + CAPTION + MARGIN) + MARGIN), 255)
    pen = ImageDraw.Draw(sheet)
    for place, face in enumerate(drawn):
        x = MARGIN + place % COLUMNS * (SIDE + MARGIN)
        y = MARGIN + place // COLUMNS * (SIDE + CAPTION + MARGIN)
        pen.text((x, y), str(place + 1), fill=0, font_size=16)
        sheet.paste(Image.fromarray(face.pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR), (x, y + CAPTION))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    picture, key = folder / f"faces_sheet_{seed}.png", folder / f"faces_key_{seed}.json"
    sheet.save(picture)
    rows = {str(k): {"expression": face.expression, "frame": face.frame} for k, face in enumerate(drawn, 1)}
    key.write_text(json.dumps({"seed": seed, "faces": rows}, indent=1) + "\n")
    return picture, key


def main(arguments: list[str] | None = None) -> None:
    """Write the sheets that the command line names."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--faces", type=int, default=24, help="how many on a sheet (24)")
    parser.add_argument("--folder", type=Path, default=Path("."), help="where to (.)")
    args = parser.parse_args(arguments)
    for seed in args.seeds:
        print(*write(args.folder, seed, n_images=args.faces))


if __name__ == "__main__":
    main()
