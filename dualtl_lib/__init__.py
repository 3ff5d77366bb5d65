"""A reproducible companion to Lin et al. (2019), dual transfer learning for facial expression recognition."""

import os

# Where Linux gives pages of 2 MB on demand, torch asks for them: fewer faults, the same bits.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
