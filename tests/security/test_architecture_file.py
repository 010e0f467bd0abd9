"""JSON and YAML architectures: read as data, whatever they ask for."""

import json

import keras
import numpy as np
import pytest

from tfinetune.errors import BackboneError, UnsafeModelError
from tfinetune.security.architecture import read_architecture
from tfinetune.security.loading import load_architecture

IMAGES = np.random.default_rng(0).uniform(0, 1, (2, 8, 8, 3)).astype("float32")


@pytest.mark.parametrize("weights", ["whole.h5", "only.weights.h5"])
def test_an_architecture_of_keras_3_takes_its_weights(small_model, tmp_path, weights):
    (tmp_path / "model.json").write_text(small_model.to_json())
    small_model.save(tmp_path / "whole.h5")
    small_model.save_weights(tmp_path / "only.weights.h5")
    model, match = load_architecture(tmp_path / "model.json", weights=tmp_path / weights)
    assert match.describe().startswith("all 8 weights")
    np.testing.assert_array_equal(model(IMAGES), small_model(IMAGES))


def test_weights_of_more_layers_than_the_architecture_are_refused(small_model, tmp_path):
    shorter = keras.Model(small_model.inputs, small_model.get_layer("pool").output)
    (tmp_path / "model.json").write_text(shorter.to_json())
    small_model.save(tmp_path / "whole.h5")
    with pytest.raises(BackboneError, match=r"layers that .* does not have: classes"):
        load_architecture(tmp_path / "model.json", weights=tmp_path / "whole.h5")


def test_an_architecture_larger_than_its_weights_is_refused(small_model, tmp_path):
    config = json.loads(small_model.to_json())
    config["config"]["layers"][1]["config"]["filters"] = 10**9
    (tmp_path / "model.json").write_text(json.dumps(config))
    small_model.save(tmp_path / "whole.h5")
    with pytest.raises(UnsafeModelError, match="more parameters than"):
        load_architecture(tmp_path / "model.json", weights=tmp_path / "whole.h5")


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("!!python/object/apply:os.system ['id']", UnsafeModelError, "asks for a Python object"),
        ("!!python/name:os.system ''", UnsafeModelError, "asks for a Python object"),
        ("[" * 5000 + "]" * 5000, UnsafeModelError, "nested too deeply"),
        ("class_name: [", BackboneError, "cannot be read"),
        ("- 1", BackboneError, "no architecture of Keras"),
        ("modelTopology: {}", BackboneError, r"TensorFlow\.js"),
    ],
)
def test_what_is_no_architecture_is_refused(tmp_path, text, error, reason):
    path = tmp_path / "model.yaml"
    path.write_text(text)
    with pytest.raises(error, match=reason):
        read_architecture(path)


def test_aliases_that_multiply_are_refused(tmp_path):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    path = tmp_path / "model.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(UnsafeModelError, match="more values than a model has"):
        read_architecture(path)


def test_numbers_of_numpy_are_read_from_their_bytes(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(
        "class_name: Sequential\n"
        "config:\n"
        "  size: !!python/object/apply:numpy.core.multiarray.scalar\n"
        "  - !!python/object/apply:numpy.dtype\n"
        "    args: [i8, 0, 1]\n"
        "    state: !!python/tuple [3, <, null, null, null, -1, -1, 0]\n"
        "  - !!binary |\n"
        "    BQAAAAAAAAA=\n"
    )
    assert read_architecture(path)[0]["config"] == {"size": 5}
