"""Synthetic sequences from neutral to peak in CK+'s layout: who shows what, each frame, and the files."""

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dualtl_lib import paper
from dualtl_lib.synthetic import portrait
from dualtl_lib.synthetic.anatomy import LASTING, Identity, person
from dualtl_lib.synthetic.drawing import View
from dualtl_lib.synthetic.expressions import EXPRESSIONS
from dualtl_lib.synthetic.portrait import Scene, face_box
from dualtl_lib.synthetic.writing import in_parallel, save_grey, save_index, write_boxes, write_folder

CKPLUS_SIZE = (490, 640)  # height, width
# Labelled sequences of each emotion in CK+ (Lucey et al. 2010, Table 3), for its 123 people.
CKPLUS_COUNTS = dict(anger=45, contempt=18, disgust=59, fear=25, happy=69, sadness=28, surprise=83)
CKPLUS_SUBJECTS = 123

# Attributes that CK+'s people show: those that last. Tired or narrowed eyes could be read as an expression, and the
# movements (smiling, an open mouth) are action units there.
SITTING = (*LASTING, "Rosy_Cheeks")
DRAWN = 0.6  # a third of the time; a face is then about 180 pixels wide, and the network sees 227 of it
POSE = dict(x=(270, 370), y=(185, 235), scale=(104, 132), roll=(-12, 12), yaw=(-16, 16), pitch=(-8, 8))
SWAY = dict(x=5, y=4, roll=1.5, yaw=2, pitch=1.5)  # how far a sequence moves, standard deviations
# How differently a detector frames one face from frame to frame: right, down, larger, as shares of the square, standard
# deviations. OpenCV's cascade differs more on these faces (0.025, 0.036, 0.083). The shift is what pixels alone
# cannot follow: without it a linear SVM on pixels reaches 86 % on people that it has not seen, with it 63 %.
FRAMING = (0.025, 0.025, 0.035)
STRENGTH = (0.8, 1.0)  # intensities of action units at the peak


def write_ckplus(
    root: str | os.PathLike, subjects: int = CKPLUS_SUBJECTS, seed: int = 0, workers: int | None = None
) -> Path:
    """Write synthetic sequences in CK+'s layout, from neutral to peak, 640x490 grey.

    cohn-kanade-images/S005/001/S005_001_00000001.png and on; the last frame's emotion code (see paper.EXPRESSIONS) in
    Emotion/S005/001/. With 123 subjects the 327 sequences have CK+'s own counts, with others in proportion; a subject
    has 1 to 6 of them, all different. Beside them: parts/, boxes.csv, README.txt. Nothing is written if root already
    has the same.

    Args:
        root: The folder to write.
        subjects: How many people, 2 to 900.
        seed: The same seed gives the same files.
        workers: Processes that draw. Default: one a core.

    Returns:
        The folder.

    Raises:
        FileExistsError: If root holds anything that this function did not write.
        ValueError: If the number of subjects is out of range.
    """
    if not 2 <= subjects <= 900:
        raise ValueError(f"write_ckplus needs 2 to 900 subjects, for names of the form S005: subjects={subjects}")
    settings = dict(layout="CK+", subjects=subjects, seed=seed)

    def write(folder: Path):
        jobs = []
        for who, emotions in enumerate(ckplus_plan(subjects, seed)):
            for number, emotion in enumerate(emotions, 1):
                jobs.append((folder, seed, who, number, emotion))
        rows = in_parallel(_write_ckplus_sequence, jobs, workers, "synthetic faces, CK+'s layout")
        write_boxes(folder, [row for sequence in rows for row in sequence])

    return write_folder(root, settings, write)


def ckplus_plan(subjects: int, seed: int) -> list[list[str]]:
    """Which emotions each subject shows: 1 to 6, all different, in CK+'s proportions.

    Args:
        subjects: How many people.
        seed: Of the data set.

    Returns:
        For each subject the emotions of its sequences, in order.
    """
    rng = np.random.default_rng([seed, 6])
    counts = {e: min(subjects, max(1, round(n * subjects / CKPLUS_SUBJECTS))) for e, n in CKPLUS_COUNTS.items()}
    room = np.ones(subjects, int)
    while room.sum() < sum(counts.values()):
        room[rng.choice(np.flatnonzero(room < 6))] += 1
    plan = [[] for _ in range(subjects)]
    for emotion, count in sorted(counts.items(), key=lambda item: -item[1]):
        # Those with most room first: this always finds a way where there is one (Gale, Ryser).
        for who in np.lexsort([rng.random(subjects), -room])[:count]:
            plan[who].append(emotion)
            room[who] -= 1
    return [list(rng.permutation(emotions)) for emotions in plan]


class Frame(NamedTuple):
    """One frame of a sequence, still to be drawn."""

    units: dict[int, tuple[float, float]]
    view: View
    box: tuple[float, float, float]  # x, y, side of the face's square in pixels


class Sequence(NamedTuple):
    """One recording: who moves, what lasts, and its frames from neutral to peak."""

    person: Identity
    attributes: dict[str, float]
    scene: Scene
    frames: list[Frame]


def ckplus_sequence(seed: int, who: int, number: int, emotion: str) -> Sequence:
    """Decide what a sequence shows; `draw_frame` draws it.

    The last five frames, which a run takes as the expression, are at 84 to 100 % of the peak. Frames below half of the
    peak are never among them.

    Args:
        seed: Of the data set.
        who: The subject, from 0.
        number: The subject's sequence, from 1.
        emotion: A key of EXPRESSIONS.

    Returns:
        The sequence from neutral to peak.
    """
    someone = person(seed, 7, who)
    rng = np.random.default_rng([seed, 8, who, number])
    attributes = {name: someone.traits[name] for name in SITTING}
    peak = EXPRESSIONS[emotion].draw(rng, *STRENGTH)
    frames = int(rng.integers(7, 10))
    strengths = np.concatenate([[0.0], np.linspace(0.4, 0.75, frames - 6) if frames > 7 else [0.5],
                                np.linspace(0.84, 1.0, 5)])  # fmt: skip
    pose = {key: float(rng.uniform(*limits)) for key, limits in POSE.items()}
    sway = {key: rng.normal(0, spread) for key, spread in SWAY.items()}
    scene = Scene.draw(rng)
    drawn = []
    for strength in strengths.tolist():
        view = View(**{key: value + strength * sway.get(key, 0.0) for key, value in pose.items()})
        units = {unit: (left * strength, right * strength) for unit, (left, right) in peak.items()}
        x, y, side = face_box(view)
        right, down, larger = np.clip(rng.normal(0, FRAMING), -2 * np.array(FRAMING), 2 * np.array(FRAMING)) * side
        box = (x + right - larger / 2, y + down - larger / 2, side + larger)
        left, top, wide = (round(float(v), 1) for v in box)
        drawn.append(Frame(units, view, (left, top, wide)))
    return Sequence(someone, attributes, scene, drawn)


def _write_ckplus_sequence(folder: Path, seed: int, who: int, number: int, emotion: str):
    """Draw and write one sequence with its label; returns [(file, box)] of its frames."""
    name = f"S{who + 5:03d}/{number:03d}"
    for place in ("cohn-kanade-images", "parts/cohn-kanade-images", "Emotion"):
        (folder / place / name).mkdir(parents=True)
    sequence = ckplus_sequence(seed, who, number, emotion)
    written = []
    for number, frame in enumerate(sequence.frames, 1):
        pixels, index = draw_frame(sequence, frame)
        file = f"{name}/{name.replace('/', '_')}_{number:08d}"
        save_grey(folder / f"cohn-kanade-images/{file}.png", pixels)
        save_index(folder / f"parts/cohn-kanade-images/{file}.png", index)
        written.append((f"cohn-kanade-images/{file}.png", frame.box))
    label = folder / f"Emotion/{file}_emotion.txt"
    label.write_text(f"   {paper.EXPRESSIONS.index(emotion):.7e}\n")
    return written


def draw_frame(sequence: Sequence, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Draw a frame, at DRAWN of CKPLUS_SIZE and enlarged.

    Args:
        sequence: What lasts.
        frame: What changes.

    Returns:
        The grey picture and the index of its parts, uint8, shape (490, 640) each.
    """
    height, width = (round(DRAWN * side) for side in CKPLUS_SIZE)
    view = frame.view
    small = replace(view, x=DRAWN * view.x, y=DRAWN * view.y, scale=DRAWN * view.scale)
    pixels, index = portrait.paint(
        sequence.person, frame.units, sequence.attributes, small, sequence.scene, (height, width), grey=True
    )
    whole = CKPLUS_SIZE[::-1]
    return cv2.resize(pixels[..., 0], whole), cv2.resize(index, whole, interpolation=cv2.INTER_NEAREST)
