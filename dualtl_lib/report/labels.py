"""Display names of machine keys: tables and figures print these where JSON and CSV hold the keys."""

from collections.abc import Mapping

PROTOCOLS = {"random": "random split", "subject": "subject-independent split"}
MODELS = {
    "fig9": "Our model in Fig. 9",
    "fig14": "Our model in Fig. 14",
    "fig18": "Our model in Fig. 18",
    "svm": "linear SVM on pixels",
}
REGIONS = {"none": "nothing"}  # the other regions' keys are words already
STARTS = {"random": "random weights", "single": "single transfer", "dual": "dual transfer"}
COLUMNS: Mapping[str, Mapping[str, str]] = {  # the keys that a table's column holds
    "protocol": PROTOCOLS,
    "model": MODELS,
    "method": MODELS,
    "region": REGIONS,
    "covered": REGIONS,
    "start": STARTS,
}


def label(key: str) -> str:
    """Return the display name of a key, or of keys joined by ", "; what is no key stays as it is.

    Args:
        key: E.g. "subject", or "fig14, random".
    """
    names = PROTOCOLS | MODELS | REGIONS
    return ", ".join(names.get(part, part) for part in key.split(", "))
