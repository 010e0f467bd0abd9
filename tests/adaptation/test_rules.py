"""Layer rules: what they match, that the flags hold, and what is refused."""

import numpy as np
import pytest

from tfinetune.adaptation import resolve, trainable_plan
from tfinetune.assembly import Assembly
from tfinetune.backbones import load_backbone
from tfinetune.errors import UnknownLayerError


@pytest.fixture
def assembly(small_cnn) -> Assembly:
    return Assembly(load_backbone(small_cnn()), 3)


def trained(assembly, rules, **options) -> set[str]:
    plan = resolve(rules, assembly, **options)
    plan.apply()
    return {row.layer for row in trainable_plan(plan) if row.trainable}


CONVS = {"conv_1", "conv_2", "conv_3"}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("all", CONVS | {"logits"}),
        ("none", set()),
        ("head", {"logits"}),
        ("*conv_[12]", {"conv_1", "conv_2"}),
        ("re:conv_[23]$", {"conv_2", "conv_3"}),
        (["all", "!head"], CONVS),
        (["!head", "all"], CONVS | {"logits"}),
        (["all", "!re:conv_2"], {"conv_1", "conv_3", "logits"}),
        (("head", "conv_3"), {"conv_3", "logits"}),
    ],
)
def test_rules_choose_layers(assembly, rules, expected):
    assert trained(assembly, rules) == expected


def test_ranges_of_groups_include_both_ends_and_run_through_the_head(assembly):
    groups = [group.name for group in assembly.backbone.groups]
    first = trained(assembly, groups[0])
    assert trained(assembly, f"{groups[0]}:") == CONVS | {"logits"}
    assert trained(assembly, f":{groups[0]}") == first
    assert trained(assembly, f"{groups[0]}:{groups[-1]}") == CONVS
    assert trained(assembly, "-2:") == trained(assembly, f"{groups[-1]}:")
    assert trained(assembly, "-99:") == CONVS | {"logits"}
    assert trained(assembly, f"{groups[-1]}:") == (CONVS | {"logits"}) - trained(
        assembly, f":{groups[-2]}"
    )


def test_batch_norm_is_frozen_unless_asked_for(assembly):
    assert "bn_1" not in trained(assembly, "all")
    assert {"bn_1", "bn_2", "bn_3"} <= trained(assembly, "all", batch_norm="adapt")


@pytest.mark.parametrize("rule", ["stage_77", "*cnv*", "re:^nothing$", "stage_77:", "!missing"])
def test_rule_that_matches_nothing_names_the_closest(assembly, rule):
    with pytest.raises(UnknownLayerError, match="No layer matches .*Closest: .*inspect"):
        resolve(rule, assembly)


def test_backwards_range_and_bad_regex_are_refused(assembly):
    with pytest.raises(UnknownLayerError, match="comes after"):
        resolve("head:stem", assembly)
    with pytest.raises(UnknownLayerError, match="not a regular expression"):
        resolve("re:(", assembly)


def test_frozen_layers_stay_bit_identical_through_fit(assembly):
    images = np.random.default_rng(0).uniform(0, 255, (32, 16, 16, 3)).astype("float32")
    labels = np.arange(32) % 3
    resolve("conv_3", assembly).apply()
    before = {v.path: np.array(v) for v in assembly.model.weights}
    assembly.model.compile("sgd", "sparse_categorical_crossentropy")
    assembly.model.fit(images, labels, epochs=2, verbose=0)
    moved = {v.path for v in assembly.model.weights if not np.array_equal(before[v.path], v)}
    assert {path.split("/")[-2] for path in moved} == {"conv_3"}


def test_dropout_of_frozen_layers_is_off_during_the_block_only(assembly):
    images = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3)).astype("float32")
    plan = resolve("head", assembly)
    features = assembly.features_model
    with plan.frozen_layers_deterministic():
        np.testing.assert_array_equal(
            features(images, training=True), features(images, training=True)
        )
    rates = [layer.rate for layer in assembly.backbone.model.layers if hasattr(layer, "rate")]
    assert rates == [0.1, 0.1]
