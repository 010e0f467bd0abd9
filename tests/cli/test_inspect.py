"""`tfinetune inspect` says of any kind of model what must be known before training."""

import json

import keras
import pytest

layers = keras.layers


def image_model():
    inputs = keras.Input((16, 16, 3), name="photo")
    x = layers.Rescaling(1 / 255, name="outer")(inputs)
    x = layers.Rescaling(1 / 255, name="inner")(x)
    x = layers.Conv2D(4, 3, name="conv1")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.Conv2D(8, 3, strides=2, name="conv2")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax", name="classes")(x))


def text_model():
    inputs = keras.Input((None,), dtype="int32", name="words")
    x = layers.GRU(5, name="recurrent")(layers.Embedding(20, 6, name="embed")(inputs))
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid", name="score")(x))


def towers():
    user, item = keras.Input((4,), name="user"), keras.Input((6,), name="item")
    x = layers.Concatenate(name="join")([layers.Dense(3)(user), layers.Dense(3)(item)])
    return keras.Model([user, item], layers.Dense(2, name="hidden")(x))


@pytest.fixture
def inspect(here, tmp_path):
    """Save a model and return what the command prints of it."""

    def run(model, *options, name="model.keras"):
        model.save(tmp_path / name)
        done = here("inspect", tmp_path / name, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_an_image_model(inspect, name):
    facts = json.loads(inspect(image_model(), "--json", name=name))
    assert facts["era"] == f"Keras {keras.__version__}"
    assert len(facts["sha256"]) == 64
    assert facts["inputs"] == [{"name": "photo", "shape": [16, 16, 3], "dtype": "float32"}]
    assert (facts["output_shape"], facts["parameters"]) == ([6, 6, 8], 424)
    assert (facts["batch_norm_layers"], facts["batch_norm_policy"]) == (1, "frozen")
    assert facts["input_range"] == "[0, 255]"
    assert facts["input_range_origin"] == "the model's own Rescaling layer 'outer'"
    assert facts["input_range_confidence"] == "declared"
    assert facts["groups"] == [
        {"name": "stem", "depth": 5, "parameters": 128, "output_shape": [14, 14, 4]},
        {"name": "stage_1", "depth": 1, "parameters": 296, "output_shape": [6, 6, 8]},
    ]
    assert facts["notes"][0] == "cut after conv2: removed 2 layers of the top (pool, classes)"
    assert "normalized twice" in facts["warnings"][0]


def test_the_same_as_text(inspect):
    text = " ".join(inspect(image_model()).split())
    for words in ("16 x 16 x 3 float32", "14 x 14 x 4", "[0, 255]", "declared", "stage_1"):
        assert words in text
    assert "note: cut after conv2" in text
    assert "warning: the layers 'outer', 'inner'" in text


def test_a_model_of_texts_has_no_pixel_range(inspect):
    facts = json.loads(inspect(text_model(), "--json"))
    assert facts["inputs"] == [{"name": "words", "shape": [None], "dtype": "int32"}]
    assert facts["input_range"] is facts["input_range_confidence"] is None
    assert [group["name"] for group in facts["groups"]] == ["stem", "stage_1"]
    text = inspect(text_model())
    assert "? int32" in text and "input range" not in text


def test_all_inputs_are_listed(inspect):
    text = inspect(towers())
    assert "input user" in text and "4 float32" in text
    assert "input item" in text and "6 float32" in text
