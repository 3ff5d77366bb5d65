"""Run configs: what they may say, how a changed run is named, where it writes."""

import pytest

from dualtl_lib import config, files


@pytest.mark.parametrize("path", sorted((files.PROJECT / "config").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_opens(path):
    assert config.open_run(path.stem).name == path.stem


def test_a_changed_run_has_its_own_folders(write_config):
    same, other = config.open_run("mine", seed=0), config.open_run("mine", seed=3, budget=None)
    assert same == config.open_run("mine")
    assert other.seed == 3 and other.name == "mine,seed=3"
    assert not {same.path, same.figures} & {other.path, other.figures}


OVERRIDES = [
    (["ckplus.batch=50"], "mine"),  # as the config has it
    (["seed=3", "ckplus.base_lr=1e-3", "ckplus.batch=20"], "mine,ckplus.base_lr=0.001,ckplus.batch=20,seed=3"),
    (["recipe.ckplus.batch=20"], "mine,ckplus.batch=20"),
    (["ckplus.head_warmup="], "mine,ckplus.head_warmup=null"),
    (["ckplus.head_warmup.max_iter=9"], "mine,ckplus.head_warmup.max_iter=9"),
    (["conv1=trained", "precision=float32"], "mine,conv1=trained"),
]


@pytest.mark.parametrize(("words", "spec"), OVERRIDES)
def test_overrides_are_part_of_the_name_which_opens_the_run_again(write_config, words, spec):
    write_config(recipe={"ckplus": {"max_iter": 500, "batch": 50}})
    run = config.open_run("mine", **config.parse_overrides(words))
    assert (run.spec, run.name, run.config) == (spec, spec, "mine")
    assert config.open_run(spec) == config.open_run(",".join(["mine", *words])) == run
    assert run.recipe.changes("ckplus")["max_iter"] == 500


@pytest.mark.parametrize("text", ["/a b/c", "a, seed=3", "'quoted'", "3", "true", "x" * 300, "ü", "a: b"])
def test_any_text_makes_a_name_for_a_folder_and_opens_the_run_again(write_config, text):
    run = config.open_run("mine", title=text)
    assert run.title == text and config.open_run(run.spec) == run
    assert len(run.name.encode()) < 255 and not set(run.name) & set(" /'\"")
    assert config.open_run("mine", title=text + ".").name != run.name
    assert config.open_run("mine", title="_a_b_c").name != config.open_run("mine", title="/a/b/c").name


@pytest.mark.parametrize("word", ["seed", "ckplus.base_lr", "seed=[", "=3"])
def test_a_word_that_is_no_override_is_refused(word):
    with pytest.raises(ValueError, match=r"ckplus.base_lr=0.001, found"):
        config.parse_overrides([word])


WRONG = [
    (dict(budget="huge"), "budget: .*'quick'.*'paper'.*'huge'"),
    (dict(precision="half"), "precision: .*'auto'.*'half'"),
    (dict(cache_gb="much"), "cache_gb: .*'much'"),
    (dict(recipe=3), "recipe: .*3"),
    (dict(recipe={"clebea": {}}), "recipe: .*clebea.*celeba, ckplus, heads"),
    (dict(recipe={"ckplus": 3}), "recipe.ckplus: .*3"),
    (dict(recipe={"ckplus": {"lr": 1}}), r"recipe.ckplus: .*lr\b.*base_lr, batch"),
    (dict(recipe={"ckplus": {"base_lr": "fast"}}), "recipe.ckplus.base_lr: .*'fast'"),
    (dict(recipe={"ckplus": {"base_lr": None}}), "recipe.ckplus.base_lr: .*None"),
    (dict(recipe={"ckplus": {"momentum": True}}), "recipe.ckplus.momentum: .*True"),
    (dict(recipe={"celeba": {"batch": 0}}), "recipe.celeba.batch: .*from 1 on.*0"),
    (dict(recipe={"ckplus": {"loss": "squared"}}), "recipe.ckplus.loss: .*hinge.*squared"),
    (dict(recipe={"ckplus": {"head_warmup": 3}}), "recipe.ckplus.head_warmup: .*3"),
    (dict(stop_early=1), "stop_early: .*1"),
    (dict(seed="one"), "seed: .*'one'"),
    (dict(seed=-1), "seed: .*0 to 4294967295.*-1"),
    (dict(seed=2**33), "seed: .*8589934592"),
    (dict(sead=1), "sead.*allowed: title"),
    (dict(title=None), "title: .*None"),
]
OLD = [
    (dict(skip_dead_tail=True), "skip_dead_tail is now called stop_early"),
    (dict(recipe={"ckplus": {"heads_first": {"max_iter": 3}}}), "recipe.ckplus: heads_first is now called head_warmup"),
    (dict(sweep=dict(protocol=["people"])), "sweep.protocol.0: .*'people', now called 'subject'"),
]


@pytest.mark.parametrize(("changes", "expected"), WRONG + OLD)
def test_a_wrong_config_names_file_and_key(write_config, changes, expected):
    write_config(**changes)
    with pytest.raises(ValueError, match=f"mine.yaml: .*{expected}"):
        config.open_run("mine")


def test_a_missing_key_and_an_unknown_run(write_config):
    for name in ("other", "a b", "../mine"):
        with pytest.raises(ValueError, match=rf"no run '{name}'.* mine"):
            config.open_run(name)
    write_config().write_text("title: t\n")
    with pytest.raises(ValueError, match=r"mine.yaml: weights: .*; seed: "):
        config.open_run("mine")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r'person: "([a-z]+)-\d+"', "'d' in line 1"),
        ("title: a\n  weights: b", "mapping values .* in line 2"),
        ("", "nothing"),
        ("- title: a", "a list"),
        ("seed: 2026-13-45", "month must be in 1..12"),
        (b"title: Gesichter f\xfcr uns", "invalid"),
    ],
)
def test_what_is_no_config_names_its_file(write_config, text, found):
    path = write_config()
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"{path}: .*found .*{found}"):
        config.open_run("mine")


def test_the_caches_size_is_in_gib(write_config):
    assert config.open_run("mine").cache_bytes is None
    for size in (2, 0.5, 0):
        assert config.open_run("mine", cache_gb=size).cache_bytes == size * 2**30


def test_pictures_of_people_stay_out_of_the_committed_folder(write_config, tmp_path):
    for real in ({}, {"celeba": "synthetic"}, {"ckplus": "synthetic"}):
        write_config(**real)
        assert config.open_run("mine").pictures == tmp_path / "out" / "runs" / "mine" / "figures"
    write_config(celeba="synthetic", ckplus="synthetic")
    assert config.open_run("mine").pictures == tmp_path / "out" / "figures" / "mine"
    assert config.open_run("mine", ckplus="~/photographs").people


def test_a_run_says_what_makes_it(write_config):
    assert config.open_run("mine").made_by() == "`make reproduce RUN=mine`"
    assert config.open_run("mine", budget="paper").made_by() == "`make reproduce RUN=mine,budget=paper`"
    assert config.open_run("mine", title="a b").made_by() == "`make reproduce RUN='mine,title=a b'`"
