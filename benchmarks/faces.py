"""How fast synthetic faces are drawn and written: faces a second on one core, and where the time of one goes.

python benchmarks/faces.py [--images 400]

CelebA's layout is 178x218 JPEG in colour, CK+'s 640x490 PNG in grey, both with part masks. No faces exist before.
"""

import argparse
import cProfile
import os
import pstats
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import cv2

from dualtl_lib.synthetic import faces as synthetic_faces


def celeba(root: Path, images: int) -> int:
    synthetic_faces.write_celeba(root, people=max(3, images // 5), images=images, seed=1, workers=1)
    return images


def ckplus(root: Path, images: int) -> int:
    synthetic_faces.write_ckplus(root, subjects=max(2, images // 20), seed=1, workers=1)
    return len(list((root / "cohn-kanade-images").rglob("*.png")))


def spent(write, images: int) -> str:
    """The share of time in each module of the drawing and in each function outside it, the five largest."""
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as root:
        profile.runcall(write, Path(root) / "faces", images)
    by_name = {}
    for (file, _, name), (*_, own, _, _) in pstats.Stats(profile).stats.items():
        where = Path(file).name if "dualtl_lib" in file else name.strip("<>")
        by_name[where] = by_name.get(where, 0.0) + own
    whole = sum(by_name.values())
    largest = sorted(by_name.items(), key=lambda item: -item[1])[:5]
    return ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in largest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=400, help="about how many of each")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    print("| layout | faces | seconds | faces a second on one core | own time of |")
    print("|---|---:|---:|---:|---|")
    for name, write in {"CelebA": celeba, "CK+": ckplus}.items():
        with tempfile.TemporaryDirectory() as root:
            begin = time.process_time()
            written = write(Path(root) / "faces", args.images)
            seconds = time.process_time() - begin
        print(f"| {name} | {written} | {seconds:.1f} | {written / seconds:.0f} | {spent(write, args.images)} |")


if __name__ == "__main__":
    main()
