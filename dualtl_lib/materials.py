"""What a run is made of: its trunk, its faces, its trained models, each from where config/<run>.yaml says.

Synthetic faces are written at the first call, under runs/data/, and shared by all runs of the same seed.
"""

from . import caffenet, faces, runs, weights

CELEBA_IMAGES, CELEBA_PEOPLE, CKPLUS_SUBJECTS = 3000, 600, 123  # of the synthetic sets; CK+ has 123 subjects
MADE_BY = {  # which notebook trains which model
    "celeba": "03_first_transfer",
    "ckplus_fig14": "05_second_transfer",
    "ckplus_fig18": "05_second_transfer",
    "ckplus_fig14_people": "05_second_transfer",
    "ckplus_fig18_people": "05_second_transfer",
}


def trunk(run: runs.Run) -> caffenet.Trunk:
    """The trunk that stands where BVLC's ImageNet weights stand in the paper (section 4.1)."""
    return weights.load(run.weights)


def celeba(run: runs.Run, split: str = "train") -> faces.CelebA:
    """The run's face attributes (section 4.2.1)."""
    if run.celeba != "synthetic":
        return faces.CelebA(weights.expand(run.celeba), split=split)
    root = runs.OUTPUT / "runs" / "data" / f"celeba-seed{run.seed}"
    faces.synthetic.write_celeba(root, people=CELEBA_PEOPLE, images=CELEBA_IMAGES, seed=run.seed)
    return faces.CelebA(root, split=split)


def ckplus(run: runs.Run) -> faces.CKPlus:
    """The run's expressions (section 4.3.1): in CK+'s official layout as many images as the paper has, 1875."""
    if run.ckplus != "synthetic":
        return faces.CKPlus(weights.expand(run.ckplus))
    root = runs.OUTPUT / "runs" / "data" / f"ckplus-seed{run.seed}"
    faces.synthetic.write_ckplus(root, subjects=CKPLUS_SUBJECTS, seed=run.seed)
    return faces.CKPlus(root)


def model(run: runs.Run, name: str) -> caffenet.AttributeNet | caffenet.ExpressionNet:
    """A trained model of the run. Raises FileNotFoundError naming the notebook that trains it."""
    path = run.checkpoint(name)
    if not path.exists():
        raise FileNotFoundError(
            f"run {run.name!r} has no trained model {name!r} yet; notebooks/{MADE_BY[name]}.ipynb trains it, "
            f"and so does `make reproduce RUN={run.name.split(',')[0]}`"
        )
    return weights.load_model(path)
