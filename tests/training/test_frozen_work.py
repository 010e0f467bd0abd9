"""Frozen work done once: cuts on every kind of graph, and the weights of plain training."""

import keras
import numpy as np
import pytest
from keras import layers

import tfinetune as ft
from tfinetune.errors import TrainablePlanError
from tfinetune.training import FeatureCache, Phase, View, frozen_prefix, run_phases
from tfinetune.training.estimate import estimate_seconds
from tfinetune.training.frozen_prefix import FlatGraph
from tfinetune.training.runner import compile_for


def transformer():
    photo = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(photo)
    x = layers.Reshape((16, 8))(layers.Conv2D(8, 4, strides=4, name="patches")(x))
    for block in (1, 2):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(2, 4, dropout=0.2, name=f"attention_{block}")(y, y)
        x = layers.Add()([x, layers.Dropout(0.1)(y)])
        y = layers.Dense(8, activation="gelu", name=f"mlp_{block}")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dropout(0.1)(y)])
    return keras.Model(photo, x)


def recurrent():
    photo = keras.Input((16, 16, 3))
    x = layers.Reshape((16, 48))(layers.Rescaling(1 / 127.5, offset=-1)(photo))
    x = layers.GRU(8, return_sequences=True, dropout=0.2, name="rnn_1")(x)
    x = layers.LSTM(6, return_sequences=True, recurrent_dropout=0.2, name="rnn_2")(x)
    return keras.Model(photo, x)


def branching():
    """Build a CNN with a skip connection that crosses the cut before `late`."""
    photo = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(photo)
    skipped = layers.Conv2D(6, 3, strides=4, padding="same", name="early")(x)
    x = layers.ReLU()(layers.BatchNormalization()(skipped))
    x = layers.Conv2D(4, 3, padding="same", name="middle")(x)
    x = layers.Conv2D(6, 3, padding="same", name="late")(layers.GaussianNoise(0.3)(x))
    return keras.Model(photo, layers.Add()([x, skipped]))


def two_inputs():
    words = keras.Input((5,), dtype="int32", name="words")
    columns = keras.Input((6,), name="columns")
    left = layers.GRU(6, name="gru")(layers.Embedding(20, 4, name="embed")(words))
    right = layers.BatchNormalization()(layers.Dense(6, name="dense")(columns))
    x = layers.Dense(8, name="joint")(layers.Concatenate()([left, right, columns]))
    return keras.Model([words, columns], layers.Dense(2, name="top")(x))


CASES = {
    "cnn": (None, "stage_2:"),
    "transformer": (transformer, ("attention_2", "mlp_2", "head")),
    "recurrent": (recurrent, ("rnn_2", "head")),
    "branching": (branching, ("late", "head")),
    "two inputs": (two_inputs, ("gru", "joint", "head")),
}


@pytest.fixture(scope="module")
def arrays():
    random = np.random.default_rng(0)
    words = random.integers(0, 20, (40, 5)).astype("int32")
    columns = random.normal(size=(40, 6)).astype("float32")
    labels = (columns[:, 0] > 0).astype(int)
    return ft.data.from_arrays({"words": words, "columns": columns}, labels, validation=0.25)


@pytest.fixture(scope="module")
def photos():
    images = np.random.default_rng(0).integers(0, 255, (28, 16, 16, 3)).astype("uint8")
    return ft.data.from_arrays(images, np.arange(28) % 2, validation=0.25, test=0)


@pytest.fixture
def always_cut(monkeypatch):
    """Let reading features cost nothing: models this small would not be cut otherwise."""
    monkeypatch.setattr(frozen_prefix, "MACS_PER_BYTE", 0.0)


def tuner_for(model, splits):
    # A random backbone gives no evidence of its range.
    given = (0, 255) if splits.spec.image_size else None
    return ft.FineTuner(model, splits.spec, input_range=given, cache=FeatureCache())


def fit(tuner, splits, phases, *, cache, augment):
    """Run phases; return the weights."""
    run_phases(tuner.assembly, splits, phases=phases, batch_size=7, augment=augment, cache=cache)
    return tuner.assembly.get_weights()


@pytest.mark.parametrize("name", CASES)
def test_cached_training_gives_the_weights_of_plain_training(name, request, small_cnn, always_cut):
    build, rules = CASES[name]
    splits = request.getfixturevalue("arrays" if name == "two inputs" else "photos")
    augment = "none" if name == "two inputs" else "standard"
    phase = Phase(name="top", trainable=rules, epochs=3, learning_rate=0.01, views=2)

    def tuner():
        keras.utils.set_random_seed(0)
        return tuner_for((build or small_cnn)(), splits)

    plain, cached = tuner(), tuner()
    before = plain.assembly.get_weights()
    cuts = cached.frozen_work(splits, [phase], augment=augment).cuts
    crossing = {"transformer": 2, "branching": 2, "two inputs": 3}
    assert len(cuts[0].tensors) == crossing.get(name, 1)
    expected = fit(plain, splits, [phase], cache=None, augment=augment)
    received = fit(cached, splits, [phase], cache=FeatureCache(), augment=augment)
    moved = 0
    paths = [variable.path for variable in plain.assembly.logits_model.variables]
    for path, first, second, start in zip(paths, expected, received, before, strict=True):
        # The softmax cancels the bias of keys: its gradient is rounding, which Adam steps along.
        atol = 1e-4 if path.endswith("key/bias") else 1e-5
        np.testing.assert_allclose(first, second, atol=atol, err_msg=path)
        moved += not np.array_equal(first, start)
    assert 2 < moved < len(before)


def test_features_of_later_phases_are_kept_on_the_way_and_pixels_read_once(
    photos, small_cnn, always_cut, monkeypatch, tmp_path
):
    tuner = tuner_for(small_cnn(), photos)
    phases = [
        Phase(name=rules, trainable=rules, epochs=2) for rules in ("head", "stage_2:", "stage_1:")
    ]
    opened = []
    monkeypatch.setattr(
        View, "batches", lambda *a, plain=View.batches: opened.append(a) or plain(*a)
    )
    cache = FeatureCache()
    run_phases(tuner.assembly, photos, phases=phases, augment="none", cache=cache)
    assert len(opened) == 2  # the training split and the validation split, in three phases
    # Layers that were called in several graphs are saved as they were.
    tuner.save(tmp_path / "model.keras")
    images = photos.validation.images().astype("float32")
    saved = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(saved(images), tuner.model(images))


def test_views_of_an_epoch_are_those_of_its_number_modulo_their_count(photos):
    def images(**options):
        dataset = photos.train.dataset(32, augment="standard", seed=3, **options)
        return np.concatenate([batch for batch, _ in dataset])

    three = images(epoch=4, epochs=3, views=2)
    for index, number in enumerate((0, 1, 0)):
        rows = slice(index * len(photos.train), (index + 1) * len(photos.train))
        np.testing.assert_array_equal(three[rows], images(epoch=number))


def test_number_of_views_grows_with_epochs_and_shrinks_with_data():
    counts = [Phase(name="x", epochs=e).view_count(n) for e, n in ((20, 700), (8, 700), (40, 5000))]
    assert counts == [5, 2, 4]
    assert Phase(name="x", epochs=20, views=7).view_count(700) == 7


def test_what_does_not_pay_is_run_plainly_and_on_fresh_views(photos, small_cnn):
    tuner = tuner_for(small_cnn(), photos)
    phases = [
        Phase(name="all", trainable="all", epochs=20),
        Phase(name="short", trainable="head", epochs=2),
        Phase(name="fresh", trainable="head", epochs=20, views="fresh"),
        Phase(name="head", trainable="head", epochs=20),
    ]
    work = tuner.frozen_work(photos, phases, augment="light")
    assert [cut and cut.name for cut in work.cuts] == [None, None, None, "pool"]
    assert [work.views(index) for index in range(4)] == [None, None, None, 5]
    assert "runs once for each of 5 views" in work.describe(3)
    assert work.describe(0) is None


def test_examples_that_are_mixed_with_their_batch_are_never_cached(photos, small_cnn):
    phases = [Phase(name="head", trainable="head", epochs=20)]
    tuner = tuner_for(small_cnn(), photos)
    assert tuner.frozen_work(photos, phases, augment="flip, cutmix").cuts == [None]
    assert tuner.frozen_work(photos, phases, augment="flip, cutout").cuts != [None]


def test_cut_never_loses_a_mask_or_keeps_strings(monkeypatch):
    words = keras.Input((), dtype="string", name="text")
    x = layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=4)(words)
    x = layers.Embedding(5, 6, mask_zero=True, name="embed")(x)
    x = layers.LSTM(4, return_sequences=True, name="first")(x)
    model = keras.Model(words, layers.LSTM(4, name="second")(x))
    graph = FlatGraph(model)
    names = [cut.name for cut in graph.cuts(lambda operation: operation.name != "second")]
    assert names and not {"embed", "first", "text"} & set(names)


def test_everything_up_to_a_cut_and_from_it_is_the_model(small_cnn):
    model = small_cnn()
    graph = FlatGraph(model)
    images = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3)).astype("float32")
    expected = model(images, training=False)
    cuts = graph.cuts(lambda operation: True)
    for first, last in zip(cuts[1:4], cuts[6:9], strict=True):
        features = graph.segment(None, first)(images, training=False)
        features = graph.segment(first, last)(features, training=False)
        output = graph.segment(last, None)(features, training=False)
        np.testing.assert_array_equal(output, expected)


def test_estimate_counts_frozen_work_once_and_leaves_the_weights(photos, small_cnn, always_cut):
    tuner = tuner_for(small_cnn(), photos)
    before = tuner.assembly.get_weights()
    phases = [
        Phase(name="probe", trainable="head", solver="logistic"),
        Phase(name="top", trainable="stage_2:", epochs=9),
    ]
    work = tuner.frozen_work(photos, phases, augment="light")
    seconds = estimate_seconds(work, batch_size=8)
    assert list(seconds) == ["probe", "top"] and all(value > 0 for value in seconds.values())
    for first, second in zip(before, tuner.assembly.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_suffix_that_lacks_what_trains_is_refused(photos, small_cnn):
    tuner = tuner_for(small_cnn(), photos)
    graph = FlatGraph(tuner.assembly.logits_model)
    suffix = graph.segment(graph.cuts(lambda operation: operation.name != "dropout")[-1], None)
    phase = Phase(name="all", trainable="all", epochs=1)
    with pytest.raises(TrainablePlanError, match="lie before the layers that it was to fit"):
        compile_for(phase, tuner.assembly, model=suffix, steps=1)
