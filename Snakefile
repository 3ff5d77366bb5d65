# Which notebook needs what. `snakemake --cores all --config run=ckplus48` or `make reproduce RUN=ckplus48`.
# An executed notebook stands for all that it wrote: its checkpoints, tables and pictures.

from dualtl_lib.config import open_run
from dualtl_lib.experiment import sweep
from dualtl_lib.files import OUTPUT

RUN = config.get("run", "embedded")
CHANGES = {key: value for key, value in config.items() if key != "run"}
if unknown := CHANGES.keys() - {"seed", "budget"}:  # what every notebook takes
    raise ValueError(f"--config takes run, seed and budget; {', '.join(unknown)} belongs in a file in config/")
OPTIONS = " ".join(f"--{key} {value}" for key, value in CHANGES.items())
PARAMETERS = " ".join(f"-p {key} {value}" for key, value in CHANGES.items())
OPENED = open_run(RUN, **CHANGES)
NAME = OPENED.name
FOLDS = [str(sweep.path(OPENED, job).relative_to(OUTPUT)) for job in sweep.jobs(OPENED)]

NEEDS = {  # 00 makes the synthetic faces that the others look at
    "00_start_here": [],
    "01_architecture": ["00_start_here"],
    "02_bvlc_features": ["00_start_here"],
    "03_first_transfer": ["00_start_here"],
    "04_first_transfer_features": ["03_first_transfer"],
    "05_second_transfer": ["03_first_transfer"],
    "06_second_transfer_features": ["05_second_transfer"],
    "07_expression_recognition": ["05_second_transfer"],
    "08_occlusion": ["05_second_transfer"],
    "09_explorer": ["05_second_transfer"],
}
CORES = workflow.resource_settings.cores or 8  # a cluster is asked for 8
ALONE = ["00_start_here", "03_first_transfer", "05_second_transfer"]  # these use every core themselves
LONGEST = ["02_bvlc_features", "08_occlusion"]  # of the others; begun last, one of them would end alone
LIBRARY = glob_wildcards("dualtl_lib/{name,.*}.py").name
TRUNK = "dualtl_lib/models/embedded.safetensors"
TRAINING = 24 * 60 if OPENED.budget == "paper" else 240  # minutes that a training may take
CELEBA = f"runs/{NAME}/celeba.safetensors"  # the first transfer's model
# What decides a training's result. No other change of the library trains the folds of a sweep again.
PACKAGES = ("models/", "data/", "synthetic/", "train/", "evaluate/", "experiment/")
TRAINS = ["paper", "config", "files", "report/tables", *(name for name in LIBRARY if name.startswith(PACKAGES))]


def executed(notebook):
    return f"runs/{NAME}/notebooks/{notebook}.ipynb"


rule all:
    input: [executed(notebook) for notebook in NEEDS]


ruleorder: notebook_alone > notebook_long > notebook


rule notebook:
    input:
        notebook="notebooks/{notebook}.ipynb",
        needs=lambda w: [executed(n) for n in NEEDS[w.notebook]] + [CELEBA] * (w.notebook == "03_first_transfer"),
        folds=lambda w: FOLDS if w.notebook == "07_expression_recognition" else [],
        library=[TRUNK, *expand("dualtl_lib/{name}.py", name=LIBRARY)],
        config=f"config/{RUN}.yaml",
    output: f"runs/{NAME}/notebooks/{{notebook}}.ipynb"
    threads: 1
    resources:
        mem_mb=6000,
        runtime=TRAINING,
    shell:
        "OMP_NUM_THREADS={threads} papermill --progress-bar --log-level WARNING --cwd notebooks"
        " -p run {RUN} {PARAMETERS} {input.notebook} {output}"


use rule notebook as notebook_alone with:
    wildcard_constraints:
        notebook="|".join(ALONE)
    threads: CORES
    priority: 2  # others wait for them


use rule notebook as notebook_long with:
    wildcard_constraints:
        notebook="|".join(LONGEST)
    priority: 1


# The first transfer by itself, since every dual fold starts from it. Notebook 03 finds it trained, and leaves it as it is.
rule celeba:
    input:
        library=[TRUNK, *expand("dualtl_lib/{name}.py", name=TRAINS)],
        config=f"config/{RUN}.yaml",
    output: CELEBA
    threads: CORES
    priority: 2
    resources:
        mem_mb=6000,
        runtime=TRAINING,
    shell:
        "OMP_NUM_THREADS={threads} python -m dualtl_lib train {RUN} celeba {OPTIONS}"


# One fold from one start of the run's sweep (config/<run>.yaml); on one core, so that a result does not depend on
# how many run beside it.
rule fold:
    input:
        needs=lambda w: [CELEBA] * ("-dual-" in w.job),
        library=[TRUNK, *expand("dualtl_lib/{name}.py", name=TRAINS)],
        config=f"config/{RUN}.yaml",
    output: f"runs/{NAME}/folds/{{job}}.json"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240 if OPENED.budget == "paper" else 60,
    shell:
        "OMP_NUM_THREADS=1 python -m dualtl_lib fold {RUN} {wildcards.job} {OPTIONS}"
