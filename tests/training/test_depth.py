"""The depth of a backbone is chosen by what its features are worth."""

import keras
import numpy as np
import pytest

import tfinetune as ft
from tfinetune.array_store import ArrayStore
from tfinetune.errors import DataError, UnknownLayerError
from tfinetune.training import FeatureCache, View
from tfinetune.training.depth import rank_depths

RANDOM = np.random.default_rng(0)
LABELS = np.array([0, 1] * 15)
IMAGES = RANDOM.integers(0, 100, (30, 16, 16, 3)).astype("uint8")
IMAGES[LABELS == 1, ..., 0] += 120


@pytest.fixture
def train():
    return ft.data.from_arrays(IMAGES, LABELS, validation=0, test=0).train


@pytest.fixture
def blind_at_the_end(small_cnn):
    """Return a backbone whose last stage forgot everything."""
    backbone = ft.load_backbone(small_cnn(top=False))
    last = backbone.model.get_layer("conv_3")
    last.set_weights([np.zeros_like(weight) for weight in last.get_weights()])
    return backbone


def test_a_stage_that_forgot_the_image_is_cut_off(blind_at_the_end, train):
    before = list(blind_at_the_end.depths())
    chosen = ft.choose_depth(blind_at_the_end, train)
    assert list(chosen.depths()) == before[:-1]
    tuner = ft.FineTuner(chosen, ft.data.from_arrays(IMAGES, LABELS).spec)
    names = [layer.name for layer in tuner.backbone.model.layers]
    assert "conv_2" in names and "conv_3" not in names
    assert tuner.backbone.provenance.notes[-1] == f"ends with {before[-2]}"


def test_depths_share_one_pass_and_agree_with_a_probe_of_each(small_cnn, train):
    backbone = ft.load_backbone(small_cnn(top=False))
    for depth in rank_depths(backbone, train):
        cut = backbone.up_to(depth.group)
        (alone,) = [d for d in rank_depths(cut, train) if d.group == depth.group]
        assert depth.features == alone.features == cut.model.output_shape[-1]
        assert depth.loss == pytest.approx(alone.loss, rel=1e-4)


def test_depths_of_a_backbone_that_was_seen_are_compared_without_running_it(
    small_cnn, train, tmp_path, monkeypatch
):
    backbone = ft.load_backbone(small_cnn(top=False))
    first = rank_depths(backbone, train, cache=FeatureCache(ArrayStore(tmp_path)))
    monkeypatch.setattr(View, "batches", None)
    other = ft.load_backbone(small_cnn(top=False))
    assert rank_depths(other, train, cache=FeatureCache(ArrayStore(tmp_path))) == first


def test_the_backbone_stays_whole_where_its_end_is_best(small_cnn, train):
    backbone = ft.load_backbone(small_cnn(top=False))
    best = rank_depths(backbone, train)[0].group
    cut = backbone.up_to(best)
    assert ft.choose_depth(cut, train) is cut


def test_a_group_may_be_named(small_cnn):
    whole = ft.load_backbone(small_cnn())
    images = RANDOM.uniform(0, 255, (2, 16, 16, 3)).astype("float32")
    cut = ft.load_backbone(small_cnn(), features="stage_1")
    expected = keras.Model(whole.model.input, whole.depths()["stage_1"])(images)
    np.testing.assert_array_equal(cut.model(images), expected)
    with pytest.raises(UnknownLayerError, match=r"cannot end with 'stage_9'. Allowed: stem"):
        ft.load_backbone(small_cnn(), features="stage_9")


def test_too_few_examples_to_compare_are_an_error(small_cnn):
    few = ft.data.from_arrays(IMAGES[:4], LABELS[:4], validation=0, test=0).train
    with pytest.raises(DataError, match="every class needs 3 training examples; one has 2"):
        ft.choose_depth(ft.load_backbone(small_cnn()), few)
