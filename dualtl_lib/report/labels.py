"""Display names of the keys that files and code have: in one place, so that they can change without a rerun."""

MODELS = {
    "fig9": "Our model in Fig. 9",
    "fig14": "Our model in Fig. 14",
    "fig18": "Our model in Fig. 18",
    "svm": "linear SVM on pixels",
}
PROTOCOLS = {"random": "random split", "subject": "subject-independent split"}
