"""The command line, python -m dualtl_lib: what is useful without a notebook. `--help` lists it."""

import argparse
import os
import sys
from pathlib import Path

from dualtl_lib import config, files


def _data(args: argparse.Namespace) -> None:
    from dualtl_lib.synthetic import faces

    root = files.expand(args.root, Path.cwd())
    with files.naming(root):
        if args.kind == "synthetic-celeba":
            faces.write_celeba(root, people=args.people or 600, images=args.images, seed=args.seed)
        else:
            faces.write_ckplus(root, subjects=args.people or 123, seed=args.seed)
    print(f"{args.kind}, seed {args.seed}: written to {root}")


def _list_weights(args: argparse.Namespace) -> None:
    from dualtl_lib.models import weights

    for name, source in weights.SOURCES.items():
        print(f"{name:20} {weights.where(name):16} {source.order:10} {source.licence:13} {source.title}")


def _check_weights(args: argparse.Namespace) -> None:
    from dualtl_lib.models import weights

    for key, value in weights.describe(args.path).items():
        print(f"{key:8} {value}")


def _fetch_weights(args: argparse.Namespace) -> None:
    from dualtl_lib.models import weights

    print(weights.fetch(args.name, args.url))


def launched_fabric():
    """Return the processes that `fabric run` or `torchrun` has started as a lightning Fabric; None for one process."""
    started = os.environ.keys()
    if not started & {"LT_CLI_USED", "TORCHELASTIC_RUN_ID"}:
        return None
    from lightning_fabric import Fabric

    if "LT_CLI_USED" in started:  # `fabric run` has launched it, with options that Fabric finds by itself
        return Fabric()
    here, world_size = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    fabric = Fabric(devices=here, num_nodes=world_size // here, strategy="ddp")
    fabric.launch()
    return fabric


def _run(args: argparse.Namespace) -> config.Run:
    options = {"seed": args.seed, "budget": args.budget}
    return config.open_run(args.run, **options | config.parse_overrides(args.set))


def _train(args: argparse.Namespace) -> None:
    from dualtl_lib.experiment import pipeline, steps

    if args.model not in steps.MODELS:
        raise ValueError(f"model: expected one of {', '.join(steps.MODELS)}, found {args.model!r}")
    fabric, run = launched_fabric(), _run(args)
    pipeline.train_model(run, args.model, fabric)
    if fabric is None or fabric.is_global_zero:
        print(run.checkpoint(args.model))


def _fold(args: argparse.Namespace) -> None:
    from dualtl_lib.experiment import folds, pooled, sweep

    run, job = _run(args), sweep.parse(args.job)
    print(folds.run_fold(run, job))
    table = pooled.table5(pooled.collect_folds(run, [job]))
    print(table[["model", "accuracy", "n", "low", "high"]].to_csv(index=False), end="")


def _folds(args: argparse.Namespace) -> None:
    from dualtl_lib.experiment import folds, pooled, sweep

    run = _run(args)
    done, listed = folds.done(run), sweep.jobs(run)
    jobs = files.count(len(listed), "job", "jobs")
    print(f"{len(done)} of {jobs} of run {run.name} are done", file=sys.stderr)
    if done:
        collected = pooled.collect_folds(run, done)
        tables = pooled.table5(collected), pooled.table6(collected), pooled.early_stops(run, done)
        print(*(table.to_csv(index=False) for table in tables), sep="\n", end="")


def _summary(args: argparse.Namespace) -> None:
    from dualtl_lib.report import summary

    print(summary.text(_run(args)))


def _distill(args: argparse.Namespace) -> None:
    from dualtl_lib.synthetic import distill

    distill.main(args.rest)


def _add_data(commands) -> None:
    data = commands.add_parser("data", help="write synthetic faces in CelebA's or CK+'s layout")
    data.add_argument("kind", choices=("synthetic-celeba", "synthetic-ckplus"))
    data.add_argument("--root", required=True, help="the folder to write to")
    data.add_argument("--people", type=int, help="how many; by default 600 (CelebA's layout) or 123 (CK+'s)")
    data.add_argument("--images", type=int, default=3000, help="how many, of synthetic-celeba")
    data.add_argument("--seed", type=int, default=0)
    data.set_defaults(call=_data)


def _add_weights(commands) -> None:
    weights = commands.add_parser("weights", help="pretrained trunks: list them, check a file, fetch one")
    actions = weights.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="the known sources, and which are here").set_defaults(call=_list_weights)
    check = actions.add_parser("check", help="read a file and print what it is")
    check.add_argument("path", help="a name of the list, or a .caffemodel, .onnx, .safetensors or .pth file")
    check.set_defaults(call=_check_weights)
    fetch = actions.add_parser("fetch", help="download, check and keep in the cache")
    fetch.add_argument("name", help="a name of the list")
    fetch.add_argument("--url", help="another place to take the same file from")
    fetch.set_defaults(call=_fetch_weights)


def _add_runs(commands) -> None:
    opened = argparse.ArgumentParser(add_help=False)
    opened.add_argument("run", help="a name in config/, with overrides where there are some: embedded,seed=3")
    opened.add_argument("--seed", type=int, help="override the config's")
    opened.add_argument("--budget", choices=("quick", "paper"), help="likewise")
    setting = "override a setting, such as precision=bfloat16, or ckplus.base_lr=0.001 of a recipe; may be repeated"
    opened.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=setting)

    train = commands.add_parser("train", parents=[opened], help="train one model of a run without its notebook")
    train.add_argument("model", help="celeba, or such as ckplus_fig14 or ckplus_fig18_subject")
    train.set_defaults(call=_train)
    fold = commands.add_parser("fold", parents=[opened], help="one job of a sweep: both models on one fold")
    fold.add_argument("job", help="such as subject-all-dual-seed0-fold1")
    fold.set_defaults(call=_fold)
    about = "Tables 5 and 6 over the jobs of a sweep that are done, and where they stopped early, as CSV"
    commands.add_parser("folds", parents=[opened], help=about).set_defaults(call=_folds)
    commands.add_parser("summary", parents=[opened], help="a run's closing table").set_defaults(call=_summary)


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m dualtl_lib", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    _add_data(commands)
    _add_weights(commands)
    _add_runs(commands)
    distill = commands.add_parser("distill", help="remake the embedded trunk", add_help=False)
    distill.set_defaults(call=_distill)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run a command; an error that says what is wrong ends it with that sentence and status 1."""
    top = parser()
    args, args.rest = top.parse_known_args(arguments)
    if args.rest and args.command != "distill":  # which has options of its own
        top.error(f"unrecognized arguments: {' '.join(args.rest)}")
    try:
        args.call(args)
    except (ValueError, OSError, ArithmeticError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
