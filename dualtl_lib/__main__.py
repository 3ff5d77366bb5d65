"""python -m dualtl_lib."""

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # SLURM's and Snakemake's: parts of files are removed
    try:
        from dualtl_lib.cli import main
    except FileNotFoundError as error:  # DUALTL_OUTPUT
        sys.exit(f"error: {error}")
    sys.exit(main())
