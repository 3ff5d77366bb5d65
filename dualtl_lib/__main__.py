"""python -m dualtl_lib."""

import signal
import sys

from dualtl_lib.cli import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # SLURM's and Snakemake's: parts of files are removed
    sys.exit(main())
