"""The SavedModel: what it answers to bad rows and empty batches, and the gate before it is kept."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfinetune as ft
from tfinetune.errors import ParityError, RunError
from tfinetune.export import check_parity, export_checked, export_saved_model

NAMES = ("blue", "green", "rød 🟥")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 24, 3))
    x = keras.layers.Rescaling(1 / 255.0)(image)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.5)(x)
    x = keras.layers.Dense(3, activation="softmax")(keras.layers.GlobalMaxPooling2D()(x))
    return keras.Model(image, x)


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "1"
    export_saved_model(model, path, class_names=NAMES, aspect="crop")
    return tf.saved_model.load(str(path)).signatures


def encoded(seed: int, size=(40, 30), kind="PNG", **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3))
    stream = io.BytesIO()
    Image.fromarray(pixels.astype("uint8")).save(stream, kind, **options)
    return stream.getvalue()


def test_bytes_of_any_size_and_format_answer_what_keras_predicts(model, served):
    files = [encoded(1), encoded(2, (9, 90), "BMP"), encoded(3, (16, 16), "WEBP", lossless=True)]
    answer = served["serving_bytes"](image_bytes=tf.constant(files))
    images = np.stack(
        [ft.data.decode_image(f, image_size=(16, 24), aspect="crop") for f in files]
    ).astype("float32")
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)
    assert [n.decode() for n in answer["label"].numpy()] == [NAMES[i] for i in expected.argmax(1)]
    assert answer["valid"].numpy().all()


def test_bad_rows_are_flagged_and_leave_the_others_as_they_are(served):
    good, bad = encoded(1), b"\xff\xd8\xff\xe0 broken"
    alone = served["serving_bytes"](image_bytes=tf.constant([good]))
    mixed = served["serving_bytes"](image_bytes=tf.constant([bad, good, b"", good[:100]]))
    np.testing.assert_array_equal(mixed["valid"], [False, True, False, False])
    np.testing.assert_allclose(mixed["probabilities"][1], alone["probabilities"][0], atol=1e-7)
    np.testing.assert_array_equal(mixed["probabilities"].numpy()[[0, 2, 3]], np.zeros((3, 3)))
    assert mixed["label"].numpy()[0] == b""


def test_pixels_that_are_not_finite_are_flagged(served):
    images = np.full((2, 16, 24, 3), 100, "float32")
    images[0, 3, 3, 1] = np.nan
    answer = served["serving_default"](images=tf.constant(images))
    np.testing.assert_array_equal(answer["valid"], [False, True])
    np.testing.assert_array_equal(answer["probabilities"].numpy()[0], np.zeros(3))
    assert answer["probabilities"].numpy()[1].sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("signature", "empty"),
    [
        ("serving_default", {"images": tf.zeros([0, 16, 24, 3])}),
        ("serving_bytes", {"image_bytes": tf.zeros([0], tf.string)}),
    ],
)
def test_empty_batch_is_answered(served, signature, empty):
    answer = served[signature](**empty)
    assert answer["probabilities"].shape == (0, 3)
    assert answer["label"].shape == answer["valid"].shape == (0,)


@pytest.fixture
def photos(tmp_path):
    for seed in range(3):
        (tmp_path / f"{seed}.jpg").write_bytes(encoded(seed, kind="JPEG"))
    return sorted(tmp_path.glob("*.jpg"))


@pytest.mark.slow
def test_gate_passes_the_same_model_and_stops_another(model, tmp_path, photos):
    rows = export_checked(
        model, tmp_path / "serving" / "1", class_names=NAMES, aspect="crop", photos=photos
    )
    assert len(rows) == 4 and all(row.examples == 3 for row in rows)
    other = keras.models.clone_model(model)  # random weights of its own
    with pytest.raises(ParityError, match=r"differs from Keras by .*0\.0001 is allowed"):
        check_parity(other, tmp_path / "serving" / "1", photos=photos, aspect="crop")


@pytest.mark.slow
def test_export_that_fails_the_gate_leaves_what_was_there(model, tmp_path, photos, monkeypatch):
    target = tmp_path / "serving" / "1"
    target.mkdir(parents=True)
    (target / "saved_model.pb").write_text("old")
    monkeypatch.setattr(check_parity, "__kwdefaults__", {"tolerance": -1.0})
    with pytest.raises(ParityError, match="not kept"):
        export_checked(model, target, class_names=NAMES, aspect="crop", photos=photos)
    assert [p.name for p in (tmp_path / "serving").rglob("*")] == ["1", "saved_model.pb"]
    assert (target / "saved_model.pb").read_text() == "old"


def test_folder_that_holds_something_else_is_left_alone(model, tmp_path, photos):
    with pytest.raises(RunError, match="something else than a SavedModel.*left alone"):
        export_checked(model, tmp_path, class_names=NAMES, aspect="crop", photos=photos)
    assert sorted(tmp_path.glob("*.jpg")) == photos


def test_unreadable_photos_cannot_prove_parity(model, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no")
    with pytest.raises(ParityError, match="None of the 1 photos"):
        check_parity(model, tmp_path, photos=[tmp_path / "bad.jpg"], aspect="crop")
