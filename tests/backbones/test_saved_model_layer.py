"""A SavedModel as a layer: rules, training mode, precision, optimizers, and a way home."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from saved_models import (
    SIZE,
    Blocks,
    save_blocks,
    save_function,
    save_keras_export,
    save_tensorflow_1,
)

from tfinetune.adaptation import resolve
from tfinetune.assembly import Assembly
from tfinetune.backbones import Backbone, load_backbone
from tfinetune.backbones.saved_model_layer import saved_model_layers
from tfinetune.errors import BackboneError, UnsafeModelError
from tfinetune.export import export_checked, sample_photos
from tfinetune.training.precision import computing_in

IMAGES = np.random.default_rng(0).uniform(0, 255, (16, SIZE, SIZE, 3)).astype("float32")
LABELS = np.arange(16) % 2


@pytest.fixture(scope="module")
def blocks(tmp_path_factory) -> tuple[Blocks, str]:
    path = tmp_path_factory.mktemp("blocks") / "model"
    return save_blocks(path), str(path)


@pytest.fixture
def backbone(blocks) -> Backbone:
    return load_backbone(blocks[1], input_range=(0, 1))


def _values(assembly: Assembly) -> dict[str, np.ndarray]:
    layers = [*saved_model_layers(assembly.logits_model)[0].scopes, *assembly.head_layers]
    return {
        f"{layer.path}/{weight.name}": weight.numpy()
        for layer in layers
        for weight in layer.weights
    }


def _fit(assembly: Assembly, optimizer="sgd") -> tuple[set[str], keras.callbacks.History]:
    """Train one epoch and return the names of what moved."""
    before = _values(assembly)
    model = assembly.logits_model
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    history = model.fit(IMAGES, LABELS, batch_size=8, verbose=0)
    after = _values(assembly)
    return {name for name in before if not np.array_equal(before[name], after[name])}, history


HEAD = {"logits/kernel", "logits/bias"}
FIRST = {"block_1/conv/kernel", "block_1/bn/gamma", "block_1/bn/moving_mean"}
SECOND = {"block_2/conv/kernel", "block_2/bn/gamma", "block_2/bn/moving_mean"}


def test_it_computes_what_the_module_computes(blocks, backbone):
    module, _ = blocks
    np.testing.assert_allclose(backbone.model(IMAGES), module(tf.constant(IMAGES)), rtol=1e-6)


def test_variables_are_grouped_by_scope_in_the_order_of_the_graph(backbone):
    groups = {group.name: [layer.path for layer in group.layers] for group in backbone.groups}
    assert groups == {
        "stem": ["block_1/conv", "block_1/bn"],
        "stage_1": ["block_2/conv", "block_2/bn"],
    }


@pytest.mark.parametrize(
    ("rules", "batch_norm", "moved"),
    [
        ("head", "frozen", set()),
        ("stage_1:", "frozen", {"block_2/conv/kernel"}),
        ("stage_1:", "adapt", {"block_2/conv/kernel", "block_2/bn/gamma"}),
        (["head", "block_1/*"], "frozen", {"block_1/conv/kernel"}),
        (["all", "!re:conv"], "adapt", {"block_1/bn/gamma", "block_2/bn/gamma"}),
        ("all", "frozen", {"block_1/conv/kernel", "block_2/conv/kernel"}),
        ("all", "adapt", FIRST | SECOND),
    ],
)
def test_a_fit_moves_what_the_rules_name_and_nothing_else(backbone, rules, batch_norm, moved):
    assembly = Assembly(backbone, 2)
    resolve(rules, assembly, batch_norm=batch_norm).apply()
    assert _fit(assembly)[0] - HEAD == moved


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "adamw", "muon"])
def test_any_optimizer_trains_it(backbone, optimizer):
    assembly = Assembly(backbone, 2)
    resolve("all", assembly).apply()
    assert _fit(assembly, optimizer)[0] >= {"block_1/conv/kernel", "block_2/conv/kernel"}


def test_regularization_losses_are_kept(blocks, backbone):
    module, _ = blocks
    backbone.model(IMAGES, training=True)
    (loss,) = backbone.model.losses
    np.testing.assert_allclose(loss, module._penalty(), rtol=1e-6)


def test_mixed_precision_trains_it_in_its_own(blocks):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assembly = Assembly(load_backbone(blocks[1], input_range=(0, 1)), 2)
        resolve("all", assembly).apply()
        moved, history = _fit(assembly, "adam")
    finally:
        keras.config.set_dtype_policy("float32")
    assert "block_2/conv/kernel" in moved
    assert np.isfinite(history.history["loss"]).all()
    assert saved_model_layers(assembly.model)[0].compute_dtype == "float32"


def test_training_in_16_bits_leaves_it_exact(backbone):
    expected = backbone.model(IMAGES)
    with computing_in("mixed_bfloat16", backbone.model):
        np.testing.assert_array_equal(backbone.model(IMAGES), expected)


LOAD = """
import sys, keras, numpy as np
import tfinetune.backbones
model = keras.models.load_model(sys.argv[1])
inputs = np.load(sys.argv[2])
np.save(sys.argv[3], model(inputs))
print([scope.trainable for layer in model._flatten_layers() if hasattr(layer, "scopes")
       for scope in layer.scopes])
"""


def test_a_fresh_process_loads_the_fine_tuned_model_without_the_folder(tmp_path):
    save_blocks(tmp_path / "model")
    assembly = Assembly(load_backbone(tmp_path / "model", input_range=(0, 1)), 2)
    (tmp_path / "model").rename(tmp_path / "gone")
    resolve("stage_1:", assembly, batch_norm="adapt").apply()
    _fit(assembly)
    assembly.model.save(tmp_path / "tuned.keras")
    np.save(tmp_path / "inputs.npy", IMAGES)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, "tuned.keras", "inputs.npy", "outputs.npy"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[False, False, True, True]"
    np.testing.assert_array_equal(np.load(tmp_path / "outputs.npy"), assembly.model(IMAGES))


def test_it_can_be_fine_tuned_again(blocks, backbone, tmp_path):
    assembly = Assembly(backbone, 2)
    _fit(assembly)
    assembly.model.save(tmp_path / "tuned.keras")
    again = load_backbone(tmp_path / "tuned.keras")
    assert again.input_scaling.describe() == "[0, 255]"
    np.testing.assert_allclose(again.model(IMAGES), backbone.model(IMAGES / 255), rtol=1e-5)
    resolve("all", Assembly(again, 3)).apply()


def test_what_reads_is_refused_inside_a_keras_file_too_unless_trusted(tmp_path):
    def read(x):
        return x + tf.cast(tf.strings.length(tf.io.read_file("/dev/null")), "float32")

    path = save_function(tmp_path / "model", read)
    with pytest.raises(UnsafeModelError, match="ReadFile"):
        load_backbone(path)
    load_backbone(path, trust=True).model.save(tmp_path / "model.keras")
    with pytest.raises(UnsafeModelError, match="ReadFile"):
        load_backbone(tmp_path / "model.keras")
    again = load_backbone(tmp_path / "model.keras", trust=True)
    rows = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(again.model(rows), rows)


@pytest.mark.slow
def test_a_fine_tuned_saved_model_exports_and_agrees(backbone, tmp_path):
    assembly = Assembly(backbone, 2)
    _fit(assembly)
    rows = export_checked(
        assembly.model,
        tmp_path / "export",
        class_names=["a", "b"],
        aspect="crop",
        photos=sample_photos(),
    )
    assert {row.route for row in rows} == {"tf2", "v1"}
    assert max(row.max_difference for row in rows) < 1e-5


def test_a_keras_export_and_a_tensorflow_1_graph_train_too(tmp_path):
    model = save_keras_export(tmp_path / "keras")
    exported = load_backbone(tmp_path / "keras", input_range=(0, 1))
    np.testing.assert_allclose(exported.model(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-5)
    assembly = Assembly(exported, 2)
    resolve(["head", "conv_b"], assembly).apply()
    assert _fit(assembly)[0] == HEAD | {"conv_b/kernel", "conv_b/bias"}

    save_tensorflow_1(tmp_path / "graph")
    graph = load_backbone(tmp_path / "graph", features="y")
    np.testing.assert_array_equal(graph.model(np.ones((1, 4), "float32")), [[4, 5, 0]])
    (layer,) = saved_model_layers(graph.model)
    assert [weight.path for weight in layer.weights] == [
        "saved_model/dense/kernel",
        "saved_model/dense/bias",
    ]


def test_a_copy_without_its_saved_model_says_so(backbone):
    copy = keras.models.clone_model(backbone.model)
    with pytest.raises(BackboneError, match="made from its config alone"):
        copy(IMAGES)
