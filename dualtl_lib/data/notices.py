"""What a reader left out, assumed or doubts: counted by reason, and warned of once with the first names."""

import warnings
from collections.abc import Sequence
from pathlib import Path


def some(names: Sequence, n: int = 3) -> str:
    """The first `n` names, and an ellipsis where there are more."""
    return ", ".join(map(str, names[:n])) + (", …" if len(names) > n else "")


class Notices:
    """Names of pictures, rows and folders by the reason why they are left out or doubtful.

    Attributes:
        names: For each reason the names it applies to.
    """

    def __init__(self):
        self.names: dict[str, list[str]] = {}
        self._advice: dict[str, str] = {}
        self._quiet: set[str] = set()

    def add(self, reason: str, *names: object, advice: str = "", quiet: bool = False) -> None:
        """Count names under a reason; without names nothing happens.

        Args:
            reason: What applies to the names.
            names: Pictures, rows or folders.
            advice: What to do about it.
            quiet: Count only, without a warning: a sound data set has this too.
        """
        if names:
            self.names.setdefault(reason, []).extend(map(str, names))
            self._advice[reason] = f"; {advice}" if advice else ""
        if quiet:
            self._quiet.add(reason)

    def counts(self) -> dict[str, int]:
        """How many names each reason has: a data set's `report`."""
        return {reason: len(names) for reason, names in self.names.items()}

    def _line(self, reason: str) -> str:
        return f"{reason}: {len(self.names[reason])} ({some(self.names[reason])}){self._advice[reason]}"

    def __str__(self) -> str:
        return "; ".join(map(self._line, self.names)) or "nothing else was noticed"

    def warn(self, where: str | Path) -> None:
        """One warning for each reason that is not quiet, with the count and the first names.

        Args:
            where: The file or folder that was read.
        """
        for reason in [reason for reason in self.names if reason not in self._quiet]:
            warnings.warn(f"{where}: {self._line(reason)}", stacklevel=4)
