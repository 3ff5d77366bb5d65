"""The benchmarks that can be run small: each ends well and prints its table. Nothing is timed."""

import re
import subprocess
import sys

import pytest

from dualtl_lib import runs

SMALL = {
    "faces.py": (("--images", "6"), 2),
    "paper_scale.py": (("--faces", "100", "--expressions", "100", "--iterations", "1"), 3),
}


@pytest.mark.parametrize("script", SMALL)
def test_it_prints_a_row_for_each(script):
    arguments, rows = SMALL[script]
    command = [sys.executable, runs.HOME / "benchmarks" / script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("|") and re.search(r"\d", line)]
    assert len(table) == rows, done.stdout
