"""python -m dualtl_lib: what is useful without a notebook. `python -m dualtl_lib --help` lists it."""

import argparse
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from dualtl_lib import config


def _data(args: argparse.Namespace) -> None:
    from dualtl_lib.synthetic import faces as synthetic_faces

    if args.kind == "synthetic-celeba":
        synthetic_faces.write_celeba(args.root, people=args.people or 600, images=args.images, seed=args.seed)
    else:
        synthetic_faces.write_ckplus(args.root, subjects=args.people or 123, seed=args.seed)
    print(f"{args.kind}, seed {args.seed}: written to {args.root}")


def _weights(args: argparse.Namespace) -> None:
    from dualtl_lib.models import weights

    if args.action == "list":
        for name, source in weights.SOURCES.items():
            print(f"{name:20} {weights.where(name):16} {source.order:10} {source.licence:13} {source.title}")
    elif args.action == "check":
        for key, value in weights.describe(args.path).items():
            print(f"{key:8} {value}")
    else:
        print(weights.fetch(args.name, args.url))


def team():
    """The processes that `fabric run` or `torchrun` has started as a lightning Fabric; None where there is one."""
    started = os.environ.keys()
    if not started & {"LT_CLI_USED", "TORCHELASTIC_RUN_ID"}:
        return None
    from lightning_fabric import Fabric

    if "LT_CLI_USED" in started:  # `fabric run` has launched it, with options that Fabric finds by itself
        return Fabric()
    here, all_of_them = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    fabric = Fabric(devices=here, num_nodes=all_of_them // here, strategy="ddp")
    fabric.launch()
    return fabric


def _run(args: argparse.Namespace) -> config.Run:
    changes = config.parse_overrides(args.set)
    return config.open_run(args.run, **{"seed": args.seed, "budget": args.budget} | changes)


def _train(args: argparse.Namespace) -> None:
    from dualtl_lib.experiment import pipeline

    fabric = team()
    run = _run(args)
    step, _, rest = args.model.partition("_")
    with fabric.rank_zero_first() if fabric else nullcontext():  # what is not there yet is written by one of them
        if step == "celeba":
            data, validation = pipeline.celeba(run, "train"), pipeline.celeba(run, "valid")
        else:
            everything = pipeline.ckplus(run)
    if step == "celeba":
        model = pipeline.attribute_net(pipeline.trunk(run), run)
    else:
        split = pipeline.protocols(run, everything)["people" if rest.endswith("people") else "random"]
        data, validation = everything.subset(split.train), everything.subset(split.validation)
        before = "celeba" if rest.startswith("fig14") else args.model.replace("fig18", "fig14")
        trunk = pipeline.model(run, before).trunk
        model = pipeline.expression_net(trunk, everything, run, conv5=rest.startswith("fig14"))
    recipe = pipeline.recipe(run, "heads" if "fig18" in args.model else step)
    pipeline.train(run, args.model, model, data, validation, recipe, fabric)
    if fabric is None or fabric.is_global_zero:
        print(run.checkpoint(args.model))


def _fold(args: argparse.Namespace) -> None:
    from dualtl_lib.experiment import folds, sweep

    run, job = _run(args), sweep.parse(args.job)
    print(folds.run_fold(run, job))
    said = folds.table5(folds.collect_folds(run, [job]))
    print(said[["model", "accuracy", "n", "low", "high"]].to_csv(index=False), end="")


def _folds(args: argparse.Namespace) -> None:
    from dualtl_lib.experiment import folds, sweep

    run = _run(args)
    done, listed = folds.done(run), sweep.jobs(run)
    print(f"{len(done)} of the {len(listed)} jobs of run {run.name} are done", file=sys.stderr)
    if done:
        found = folds.collect_folds(run, done)
        pooled = folds.table5(found), folds.table6(found), folds.left_out(run, done)
        print(*(table.to_csv(index=False) for table in pooled), sep="\n", end="")


def _summary(args: argparse.Namespace) -> None:
    from dualtl_lib.report import summary

    print(summary.text(_run(args)))


def _pretrain(args: argparse.Namespace) -> None:
    from dualtl_lib.synthetic import pretraining

    pretraining.main(args.rest)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m dualtl_lib", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)

    data = commands.add_parser("data", help="write synthetic faces in CelebA's or CK+'s layout")
    data.add_argument("kind", choices=("synthetic-celeba", "synthetic-ckplus"))
    data.add_argument("--root", type=Path, required=True, help="the folder to write to")
    data.add_argument("--people", type=int, help="how many; by default 600 (CelebA's layout) or 123 (CK+'s)")
    data.add_argument("--images", type=int, default=3000, help="how many, of synthetic-celeba")
    data.add_argument("--seed", type=int, default=0)
    data.set_defaults(call=_data)

    weights = commands.add_parser("weights", help="trained trunks: what is known, what a file is, fetching")
    actions = weights.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="the table of sources, and which are here")
    check = actions.add_parser("check", help="read a file and say what it is")
    check.add_argument("path", help="a name of the list, or a .caffemodel, .onnx, .safetensors or .pth file")
    fetch = actions.add_parser("fetch", help="download, check and keep in the cache")
    fetch.add_argument("name", help="a name of the list")
    fetch.add_argument("--url", help="another place to take the same file from")
    weights.set_defaults(call=_weights)

    opened = argparse.ArgumentParser(add_help=False)
    opened.add_argument("run", help="a name in config/")
    opened.add_argument("--seed", type=int, help="of the run, if other than its config's")
    opened.add_argument("--budget", choices=config.BUDGETS, help="likewise")
    about = "another setting of its config, such as precision=bfloat16, or of a recipe, such as ckplus.base_lr=0.001"
    opened.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=f"{about}; may be repeated")

    train = commands.add_parser("train", parents=[opened], help="train one model of a run without its notebook")
    train.add_argument("model", choices=("celeba", *(f"ckplus_fig{n}{p}" for n in (14, 18) for p in ("", "_people"))))
    train.set_defaults(call=_train)

    about = "one job of a run's sweep: both models on one fold from one start"
    fold = commands.add_parser("fold", parents=[opened], help=about)
    fold.add_argument("job", help="such as people-all-dual-seed0-fold1")
    fold.set_defaults(call=_fold)

    about = "Tables 5 and 6 over the jobs of a sweep that are done, and what they left out, as CSV"
    pooled = commands.add_parser("folds", parents=[opened], help=about)
    pooled.set_defaults(call=_folds)

    pretrain = commands.add_parser("pretrain", help="remake the embedded trunk", add_help=False)
    pretrain.set_defaults(call=_pretrain)

    summary = commands.add_parser("summary", parents=[opened], help="a run's closing table")
    summary.set_defaults(call=_summary)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run a command; an error that says what is wrong ends it with that sentence and status 1."""
    top = parser()
    args, args.rest = top.parse_known_args(arguments)
    if args.rest and args.command != "pretrain":  # which has options of its own
        top.error(f"unrecognized arguments: {' '.join(args.rest)}")
    try:
        args.call(args)
    except (ValueError, OSError, ArithmeticError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
