"""Putting drawn faces on disk: whole folders or nothing, in several processes, through Pillow."""

import json
import multiprocessing
import os
import sys
import tempfile
import zlib
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, PngImagePlugin
from tqdm.auto import tqdm

VERSION = 5  # of the generator: a folder written by another is written anew
TITLE = "synthetic faces: drawn by dualtl_lib, no real person"
STAMP = "synthetic.json"

# A colour for each part of a face, in the order of portrait.PARTS; 0 is outside.
PALETTE = bytes.fromhex(
    "000000 d9b38c f0d9b5 e08080 e08080 b5d98c 8cb5d9 d94f4f 7f4f2f 7f4f2f 4f7fd9 4f7fd9".replace(" ", "")
)


def write_folder(root, settings: dict, write) -> Path:
    """Write a folder beside root, then put it in root's place, unless root has the same already.

    Args:
        root: The folder to write.
        settings: What decides the content, kept in STAMP.
        write: Called with the folder to fill.

    Returns:
        The folder.

    Raises:
        FileExistsError: If root holds anything that was not written here.
    """
    root = Path(root)
    stamp = settings | {"content": TITLE, "version": VERSION}
    if _has(root, stamp):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.", ignore_cleanup_errors=True) as beside:
        new, old = Path(beside, "new"), Path(beside, "old")
        new.mkdir()
        write(new)
        (new / "README.txt").write_text(_readme(settings))
        (new / STAMP).write_text(json.dumps(stamp, indent=1) + "\n")
        try:
            os.rename(new, root)  # fails where root holds a set: an old one, or another process's, with its readers
        except OSError:
            if not _has(root, stamp):
                os.rename(root, old)  # deleted only when the new one is in its place: root is never half there
                os.rename(new, root)
    return root


def _has(root: Path, stamp: dict) -> bool:
    """Whether root is the whole set of this stamp. Raises FileExistsError if it holds anything not written here."""
    try:
        names = os.listdir(root)
        if STAMP in names:
            return json.loads((root / STAMP).read_text()) == stamp
    except FileNotFoundError:  # also where another process moves root away just now
        return False
    if names:
        raise FileExistsError(f"{root}: holds files that are not synthetic faces; name a new or empty folder")
    return False


def _readme(settings: dict) -> str:
    made = ", ".join(f"{key}={value}" for key, value in settings.items())
    return (
        f"{TITLE}.\n\nThese are synthetic faces in the file layout of {settings['layout']}. "
        "They are not that data set, and none shows a real person.\n"
        f"Written by dualtl_lib.synthetic.faces, version {VERSION}, with {made}.\n"
        "parts/ has an index picture for every picture (the palette and the values follow portrait.PARTS, counted\n"
        "from 1), boxes.csv the known square of every face in pixels.\n"
    )


def in_parallel(work, jobs: list[tuple], workers: int | None, title: str) -> list:
    """Do jobs in processes, with a progress bar.

    Args:
        work: Called with each job's items.
        jobs: What to do.
        workers: How many processes. Default: one a core.
        title: Of the progress bar.

    Returns:
        What `work` returned for each job, in order.
    """
    workers = workers or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) or 1
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # in this process: a forked one would wait forever for the threads that OpenCV has here
    try:
        if workers > 1:
            # Forked workers have imported everything already, which takes longer than drawing a few hundred faces.
            pool = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn").Pool(workers)
            done = pool.imap(partial(_call, work), jobs, chunksize=16)
        else:
            pool, done = nullcontext(), (work(*job) for job in jobs)
        with pool:
            return list(tqdm(done, title, total=len(jobs)))
    finally:
        cv2.setNumThreads(threads)


def _call(work, job: tuple):
    return work(*job)


def write_rows(path: Path, rows):
    """Write lines of a name and a value."""
    path.write_text("".join(f"{name} {value}\n" for name, value in rows))


def write_boxes(folder: Path, boxes: list):
    """Write boxes.csv from pairs of a file and its square (x, y, side)."""
    lines = ["file,x,y,side\n"] + [f"{file},{x},{y},{side}\n" for file, (x, y, side) in boxes]
    (folder / "boxes.csv").write_text("".join(lines))


def save_photo(path: Path, pixels: np.ndarray):
    """Write a JPEG of RGB pixels, uint8 [H, W, 3], with TITLE as its comment."""
    Image.fromarray(pixels).save(path, quality=95, comment=TITLE)


def save_grey(path: Path, pixels: np.ndarray):
    """Write a PNG of grey pixels, uint8 [H, W], with TITLE in its metadata."""
    # Runs alone are as small as by zlib's default here and quicker.
    Image.fromarray(pixels).save(path, compress_level=1, compress_type=zlib.Z_RLE, pnginfo=_title())


def save_index(path: Path, index: np.ndarray):
    """Write a PNG of part numbers, uint8 [H, W], in the colours of PALETTE."""
    picture = Image.fromarray(index)
    picture.putpalette(PALETTE)
    picture.save(path, compress_level=1, pnginfo=_title())


def _title() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", TITLE)
    return info
