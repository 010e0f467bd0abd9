"""Ranking backbones: whatever one of them does, the others are ranked, and the best are kept."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfinetune.search import Workbench, rank_backbones
from tfinetune.search.folder import SearchFolder
from tfinetune.search.job import open_search, run_trials
from tfinetune.search.ranking import Ranked
from tfinetune.search.setup import Setup
from tfinetune.storage import write_json
from tfinetune.training import FeatureCache


class Counting(FeatureCache):
    """Notes which splits features are computed of."""

    def __init__(self):
        super().__init__()
        self.computed = []

    def _in_memory(self, segments, split, view):
        self.computed.append(split.name)
        return super()._in_memory(segments, split, view)


class Small(FeatureCache):
    """Has no memory for one backbone."""

    def features(self, segments, split, *view):
        if segments[0].model.output_shape[-1] == 6:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return super().features(segments, split, *view)


def test_backbone_that_takes_all_memory_is_ranked_last_with_its_reason(search_recipe, world):
    names = [str(world.other_backbone), str(world.backbone)]
    best, last = rank_backbones(names, search_recipe().recipe, workbench=Workbench(Small()))
    assert (best.backbone, best.reason) == (names[1], "")
    assert last.backbone == names[0] and last.probe_accuracy is None
    assert "ResourceExhaustedError" in last.reason and "OOM" in last.reason


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_backbone_that_sees_the_same_in_every_photo_is_ranked_last(search_recipe, world, tmp_path):
    dead = keras.models.load_model(world.backbone)
    dead.set_weights([np.zeros_like(array) for array in dead.get_weights()])
    dead.save(tmp_path / "dead.keras")
    names = [str(tmp_path / "dead.keras"), str(world.backbone)]
    best, last = rank_backbones(names, search_recipe().recipe, workbench=Workbench(Counting()))
    assert best.backbone == names[1]
    assert last.backbone == names[0] and "Singular matrix" in last.reason


def test_features_of_the_ranking_serve_the_trials_that_follow(search_recipe, world, tmp_path):
    names = (str(world.backbone), str(world.other_backbone))
    folder = open_search(search_recipe(backbones=names, keep=1, trials=2), tmp_path / "s")
    cache = Counting()
    run_trials(folder, Workbench(cache))
    assert cache.computed == ["train", "train", "validation"]


@pytest.mark.parametrize(("keep", "kept"), [(1, ("a",)), (2, ("a", "b")), (9, ("a", "b", "c"))])
def test_as_many_backbones_are_searched_over_as_are_to_be_kept(keep, kept, search_recipe, tmp_path):
    folder = SearchFolder.create(tmp_path / "s", search_recipe(backbones=tuple("abc"), keep=keep))
    ranking = [Ranked(name, 0.8, log_me=0.1) for name in "abc"]
    ranking.append(Ranked("broken", reason="it is no model"))
    write_json(folder.ranking_path, [row.to_dict() for row in ranking])
    setup = Setup.of(folder)
    assert setup.base.backbone == "a"
    assert setup.space.domains["backbone"].values == kept
