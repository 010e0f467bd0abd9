"""Real files of ten years: what they compute, where they are cut, which range they want."""

import json
from functools import cache
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from tfinetune.backbones import Backbone, load_backbone
from tfinetune.errors import BackboneError
from tfinetune.security.loading import load_keras, load_weights

layers = keras.layers

EXPECTED = {
    # file: (input range, features, last layer kept)
    "teachable_machine_savedmodel/keras_model.h5": ("[-1, 1]", (7, 7, 1280), "out_relu"),
    "teachable_machine_waste/keras_model.h5": ("[-1, 1]", (7, 7, 1280), "out_relu"),
    "imagenet/mobilenet_v1_0.25_224_imagenet.keras": ("[-1, 1]", (7, 7, 256), "conv_pw_13_relu"),
    "imagenet/mobilenet_v2_0.35_224_notop.keras": ("[-1, 1]", (7, 7, 1280), "out_relu"),
    "imagenet/mobilenet_v2_1.0_224_imagenet.keras": ("[-1, 1]", (7, 7, 1280), "out_relu"),
    "stm32/mobilenet_v1_0.25_224.h5": ("[-1, 1]", (7, 7, 256), "conv_pw_13_relu"),
    "mlperf_tiny/vww_96.h5": ("[0, 1]", (3, 3, 256), "activation_26"),
    "mlperf_tiny/pretrainedResnet.h5": ("[0, 255]", (8, 8, 64), "activation_6"),
    "face_classification/fer2013_mini_XCEPTION.102-0.66.hdf5": ("[-1, 1]", (4, 4, 128), "add_4"),
    "face_classification/gender_mini_XCEPTION.21-0.95.hdf5": ("[-1, 1]", (4, 4, 128), "add_4"),
}


WASTE = "teachable_machine_waste/keras_model.h5"


@cache
def _load(path: Path) -> Backbone:
    return load_backbone(path)


_LARGE = ("imagenet/mobilenet_v2_1.0", "teachable_machine_savedmodel", "stm32")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name.startswith(_LARGE) else ())
        for name in EXPECTED
    ],
)
def test_range_and_cut_of_real_models(shared, name):
    input_range, features, last = EXPECTED[name]
    backbone = _load(shared / "models" / name)
    assert backbone.input_scaling.describe() == input_range
    assert backbone.model.output_shape[1:] == features
    assert backbone.model.layers[-1].name == last
    assert [group.name for group in backbone.groups][:2] == ["stem", "stage_1"]


def test_the_waste_models_backbone_is_bit_equal_to_its_rebuilt_copy(shared):
    models = shared / "models"
    cut = _load(models / WASTE)
    copy = _load(models / "imagenet" / "mobilenet_v2_0.35_224_notop.keras")
    images = np.random.default_rng(1).uniform(-1, 1, (2, 224, 224, 3)).astype("float32")
    np.testing.assert_array_equal(cut.model(images), copy.model(images))


def test_a_rebuilt_teachable_machine_backbone_saves_as_plain_keras(shared, tmp_path):
    backbone = _load(shared / "models" / WASTE).resized((160, 160))
    assert backbone.model.output_shape == (None, 5, 5, 1280)
    backbone.model.save(tmp_path / "backbone.keras")
    images = np.random.default_rng(2).uniform(-1, 1, (1, 160, 160, 3)).astype("float32")
    reloaded = keras.models.load_model(tmp_path / "backbone.keras")
    np.testing.assert_array_equal(reloaded(images), backbone.model(images))


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("churn/model.h5", [[None, 32]]),
        ("churn/model.keras", [[None, 32]]),
        ("mnist_cnn/model.keras", [[None, 128]]),
        ("sentiment/model.keras", [[None, 16]]),
        ("chemical_vae/zinc_encoder.h5", [[None, 196]]),
        ("mlperf_tiny/ad01.h5", [[None, 128]]),
    ],
)
def test_models_of_other_inputs_are_backbones(shared, name, features):
    backbone = load_backbone(shared / "models" / name)
    assert [list(output.shape) for output in backbone.model.outputs] == features


def test_churn_predicts_the_same_from_both_formats(shared):
    folder = shared / "models" / "churn"
    rows = np.random.default_rng(0).normal(size=(16, 12)).astype("float32")
    of_keras, of_h5 = (load_keras(folder / f"model.{kind}") for kind in ("keras", "h5"))
    assert np.ptp(of_keras(rows)) > 0.01
    np.testing.assert_array_equal(of_keras(rows), of_h5(rows))


@pytest.mark.parametrize("name", ["chemical_vae/zinc_prop_pred.h5"])
def test_every_other_whole_model_opens(shared, name):
    assert load_keras(shared / "models" / name).inputs


# --- weights only -------------------------------------------------------------------------------


def test_squeezenet_has_the_same_features_from_tensorflow_and_theano_kernels(shared):
    files = sorted((shared / "models" / "squeezenet").glob("*.h5"))
    images = np.random.default_rng(0).uniform(-120, 120, (1, 96, 96, 3)).astype("float32")
    of_tf, of_theano = (load_backbone("SqueezeNet", weights=f, image_size=96) for f in files)
    features = np.asarray(of_tf.model(images))
    assert features.std() > 1
    np.testing.assert_array_equal(features, of_theano.model(images))
    assert "all 50 weights, layers matched by name" in of_tf.provenance.notes[0]
    assert "turned from Theano's convention" in of_theano.provenance.notes[0]


def test_collaborative_filtering_scores_as_its_stored_arrays_do(shared):
    path = shared / "models/neural_collaborative_filtering/ml-1m_GMF_8_1501651698.h5"

    def gmf():
        user, item = keras.Input((1,), name="user"), keras.Input((1,), name="item")
        vectors = [
            layers.Flatten()(layers.Embedding(count, 8, name=f"{name}_embedding")(tensor))
            for name, count, tensor in (("user", 6040, user), ("item", 3706, item))
        ]
        score = layers.Dense(1, "sigmoid", name="prediction")(layers.Multiply()(vectors))
        return keras.Model([user, item], score)

    model = gmf()
    assert load_weights(model, path).describe() == "all 4 weights, layers matched by name"
    with h5py.File(path) as file:
        users = file["user_embedding/user_embedding_W"][[3, 17]]
        items = file["item_embedding/item_embedding_W"][[5, 8]]
        kernel, bias = (file[f"prediction/prediction_{letter}"][:] for letter in "Wb")
    expected = 1 / (1 + np.exp(-((users * items) @ kernel + bias)))
    given = [np.array([[3], [17]]), np.array([[5], [8]])]
    np.testing.assert_allclose(model(given), expected, rtol=1e-5)
    assert load_backbone(gmf, weights=path).model.output_shape == (None, 8)


def test_textgenrnn_goes_on_writing_words(shared):
    """Its LSTMs were trained as CuDNN layers, with a layout of their own."""
    folder = shared / "models" / "textgenrnn"

    class WeightedAverage(layers.Layer):
        def build(self, shape):
            self.direction = self.add_weight(shape=(shape[-1], 1), name=f"{self.name}_W")

        def call(self, x):
            importance = keras.ops.softmax(x @ self.direction, axis=1)
            return keras.ops.sum(x * importance, axis=1)

    text = keras.Input((40,))
    embedded = layers.Embedding(465, 100, name="embedding")(text)
    first = layers.LSTM(128, return_sequences=True, name="rnn_1")(embedded)
    second = layers.LSTM(128, return_sequences=True, name="rnn_2")(first)
    attended = WeightedAverage(name="attention")(layers.Concatenate()([embedded, first, second]))
    model = keras.Model(text, layers.Dense(465, "softmax", name="output")(attended))
    match = load_weights(model, folder / "textgenrnn_weights.hdf5")
    assert match.describe() == "all 10 weights, layers matched by name"
    vocabulary = json.loads((folder / "textgenrnn_vocab.json").read_text())
    letters = {number: letter for letter, number in vocabulary.items()}
    starts = ["Hello worl", "What is the best thing abou", "The president of the United State"]
    codes = [[vocabulary[letter] for letter in start] for start in starts]
    following = model(np.array([[0] * (40 - len(code)) + code for code in codes]))
    assert [letters[int(best)] for best in np.argmax(following, axis=-1)] == ["d", "t", "s"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("textgenrnn/textgenrnn_weights.hdf5", "weights only"),
        ("squeezenet/squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5", "weights only"),
        ("imagenet/mobilenet_v1_0.25_224_imagenet.weights.h5", "weights only"),
        ("teachable_machine_savedmodel/labels.txt", "is a text file"),
    ],
)
def test_what_cannot_be_a_backbone_says_why(shared, name, reason):
    with pytest.raises(BackboneError, match=reason) as caught:
        load_backbone(shared / "models" / name)
    assert "\n" not in str(caught.value)
