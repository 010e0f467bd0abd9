"""Real files of ten years compute what they should; test_every_shared_model opens them all."""

import json
from functools import cache, partial
from pathlib import Path

import h5py
import keras
import numpy as np
from published_models import collaborative_filtering, textgenrnn

from tfinetune.backbones import Backbone, load_backbone
from tfinetune.security.loading import load_keras, load_weights

WASTE = "teachable_machine_waste/keras_model.h5"


@cache
def _load(path: Path) -> Backbone:
    return load_backbone(path)


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


def test_churn_predicts_the_same_from_both_formats(shared):
    folder = shared / "models" / "churn"
    rows = np.random.default_rng(0).normal(size=(16, 12)).astype("float32")
    of_keras, of_h5 = (load_keras(folder / f"model.{kind}") for kind in ("keras", "h5"))
    assert np.ptp(of_keras(rows)) > 0.01
    np.testing.assert_array_equal(of_keras(rows), of_h5(rows))


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
    gmf = partial(collaborative_filtering, size=8)
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
    model = textgenrnn()
    match = load_weights(model, folder / "textgenrnn_weights.hdf5")
    assert match.describe() == "all 10 weights, layers matched by name"
    vocabulary = json.loads((folder / "textgenrnn_vocab.json").read_text())
    letters = {number: letter for letter, number in vocabulary.items()}
    starts = ["Hello worl", "What is the best thing abou", "The president of the United State"]
    codes = [[vocabulary[letter] for letter in start] for start in starts]
    following = model(np.array([[0] * (40 - len(code)) + code for code in codes]))
    assert [letters[int(best)] for best in np.argmax(following, axis=-1)] == ["d", "t", "s"]
