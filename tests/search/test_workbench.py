"""What trials share: the right backbone, as it was before any trial, in a precision that holds."""

import json
import threading

import numpy as np
import pytest
from filelock import FileLock

import tfinetune as ft
from tfinetune.errors import BackboneError
from tfinetune.reporting import Reporter
from tfinetune.search.job import open_search, run_trials
from tfinetune.search.workbench import Workbench
from tfinetune.storage import write_json
from tfinetune.training import FeatureCache
from tfinetune.training.precision import Precision
from tfinetune.workflow.prepare import (
    BACKBONE_FIELDS,
    HEAD_FIELDS,
    PHOTO_FIELDS,
    backbone_key,
    cut,
    open_backbone,
    read_photos,
)

TRAINING_FIELDS = (
    "strategy",
    "strategy_parameters",
    "augmentation",
    "class_weights",
    "dropout",
    "precision",
    "batch_size",
)
"""In which trials on one backbone, under heads of one shape, may differ."""


class Reading:
    """A recipe that notes which of its fields are read."""

    def __init__(self, recipe):
        self.recipe, self.fields = recipe, set()

    def __getattr__(self, name):
        self.fields.add(name)
        return getattr(self.recipe, name)


def test_every_field_of_a_recipe_has_one_place_in_what_trials_share():
    placed = [*PHOTO_FIELDS, *BACKBONE_FIELDS, *HEAD_FIELDS, *TRAINING_FIELDS]
    assert sorted(placed) == sorted(ft.Recipe.model_fields)


def test_photos_and_backbones_depend_on_nothing_beside_what_names_them(search_recipe):
    recipe = search_recipe().recipe
    photos, backbone, depth = (Reading(recipe.replace(features=f)) for f in (None, None, "auto"))
    splits = read_photos(photos, (16, 16), Reporter())
    assert photos.fields and photos.fields <= set(PHOTO_FIELDS)
    opened = open_backbone(backbone, recipe.backbone)
    cut(depth, opened, splits, Reporter(), cache=FeatureCache())
    assert depth.fields | backbone.fields <= {*PHOTO_FIELDS, *BACKBONE_FIELDS}


def test_backbone_that_another_endpoint_would_give_is_opened_anew(search_recipe, workbench):
    recipe = search_recipe().recipe
    assert workbench.backbone(recipe) is workbench.backbone(recipe.replace(dropout=0.5))
    with pytest.raises(BackboneError, match="endpoint= choose what is used of a SavedModel"):
        workbench.backbone(recipe.replace(endpoint="no_such_signature"))


def test_trial_that_trains_everything_finds_the_pretrained_weights_again(search_recipe):
    workbench, recipe = Workbench(FeatureCache()), search_recipe().recipe

    def trial():
        tuner, splits = workbench.tuner(recipe)
        before = tuner.backbone.model.get_weights()
        outcome = tuner.fit(
            splits,
            ft.strategies.Full(epochs=1, learning_rate=0.01, batch_norm="adapt"),
            augment="none",
            calibrate=False,
        )
        return before, outcome.shipped.weights

    (pretrained, trained), (found, trained_again) = trial(), trial()
    moved = [not np.array_equal(a, b) for a, b in zip(pretrained, trained, strict=False)]
    assert all(moved)
    for one, other in zip([*pretrained, *trained], [*found, *trained_again], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def measured(monkeypatch, world):
    """Let only one backbone be faster in bfloat16; return the sizes of those that are measured."""
    sizes = []

    def choose(name, assembly):
        if name != "auto":
            return Precision(name, "as set")
        sizes.append(assembly.backbone.model.count_params())
        return Precision("mixed_bfloat16" if sizes[-1] == max(sizes) else "float32", "measured")

    monkeypatch.setattr("tfinetune.finetuner.choose_precision", choose)
    return sizes


def test_fastest_precision_is_measured_once_for_each_backbone_in_all_processes(
    search_recipe, world, workbench, measured, tmp_path
):
    large = search_recipe(recipe={"precision": "auto"}).recipe
    small = large.replace(backbone=str(world.other_backbone))
    file = tmp_path / "precisions.json"

    def precisions(bench):
        recipes = (large, small, large.replace(dropout=0.5, batch_size=4))
        return [bench.tuner(each, precisions=file)[0].precision.name for each in recipes]

    expected = ["mixed_bfloat16", "float32", "mixed_bfloat16"]
    assert precisions(workbench) == expected
    assert len(measured) == 2
    assert precisions(Workbench(FeatureCache())) == expected  # as a worker, or after --resume
    assert len(measured) == 2


def test_precision_that_another_process_is_measuring_is_waited_for(
    search_recipe, workbench, measured, tmp_path
):
    recipe = search_recipe(recipe={"precision": "auto"}).recipe
    file, chosen = tmp_path / "precisions.json", []

    def choose():
        chosen.append(workbench.tuner(recipe, precisions=file)[0].precision.name)

    workbench.backbone(recipe)
    waiting = threading.Thread(target=choose)
    with FileLock(f"{file}.lock"):
        waiting.start()
        waiting.join(0.5)
        write_json(file, {json.dumps(backbone_key(recipe)): "float32"})
    waiting.join()
    assert chosen == ["float32"] and not measured


def test_trials_train_in_the_precision_that_their_search_has_measured(
    search_recipe, workbench, measured, tmp_path
):
    asked = search_recipe(recipe={"precision": "auto"}, trials=1)
    folder = open_search(asked, tmp_path / "s")
    write_json(folder.precisions_path, {json.dumps(backbone_key(asked.recipe)): "float32"})
    run_trials(folder, workbench)
    assert ft.Recipe.load(folder.trial_path("0") / "recipe.yaml").precision == "float32"
    assert not measured
