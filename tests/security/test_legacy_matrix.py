"""Files of ten years compute what the Keras that wrote them computed; see tests/fixtures."""

import json

import keras
import numpy as np
import pytest
from fixtures import matrix

from tfinetune.errors import BackboneError, UnsafeModelError
from tfinetune.security.legacy_config import translate


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("legacy")
    fixtures = {fixture.name: fixture for fixture in matrix.unpack(folder)}
    return folder, fixtures


@pytest.fixture
def fixture(unpacked):
    return unpacked[1].__getitem__


@pytest.mark.parametrize("runtime", matrix.RUNTIMES)
def test_files_compute_what_their_own_keras_computed(unpacked, runtime):
    failures = {
        name: reason
        for name, fixture in unpacked[1].items()
        if fixture.runtime == runtime
        and fixture.case not in matrix.KNOWN_FAILURES
        and (reason := fixture.failure())
    }
    assert not failures


def test_97_percent_of_the_files_open(unpacked):
    failing = [f.case in matrix.KNOWN_FAILURES for f in unpacked[1].values()]
    assert len(failing) > 350
    assert np.mean(failing) <= 0.03


def test_what_is_known_to_fail_is_refused_by_name(unpacked):
    failing = [f for f in unpacked[1].values() if f.case in matrix.KNOWN_FAILURES]
    assert failing
    for fixture in failing:
        with pytest.raises(UnsafeModelError, match=r"LocallyConnected\dD \(dropped by Keras 3\)"):
            fixture.open()


def test_every_layer_of_keras_2_has_a_case_or_a_reason(unpacked):
    index = matrix.index(unpacked[0] / "keras_2.15")
    covered = {name for case in index["cases"].values() for name in case["layers"]}
    assert set(index["layers"]) - covered == set(matrix.NOT_COVERED)


def test_the_page_lists_every_case(unpacked):
    page = matrix.TABLE.read_text()
    assert not {f.case for f in unpacked[1].values() if f"| {f.case} |" not in page}


@pytest.mark.parametrize(
    "name",
    [
        "keras_1.2/keras1_sequence/model.h5",
        "keras_1.2/keras1_merge/model.h5",
        "keras_2.15/legacy_cudnn_recurrent/model.keras",
        "keras_2.15/lstm_hard_sigmoid/model.h5",
        "keras_2.15/nested_functional_called_twice/model.keras",
        "keras_2.15/operators/model.keras",
        "keras_2.15/preprocess_input_caffe/model.h5",
        "keras_2.15/slices/model.h5",
        "keras_2.15/string_lookup_adapted/model.keras",
        "keras_2.15/transformer_block/model.keras",
        "tensorflow_2.3/tf2_slices/model.h5",
    ],
)
def test_an_opened_file_saves_as_plain_keras(fixture, tmp_path, name):
    old = fixture(name)
    model = old.open()
    model.save(tmp_path / "model.keras")
    assert old.difference(keras.models.load_model(tmp_path / "model.keras")) <= old.tolerance
    assert {type(layer).__module__.split(".")[0] for layer in model._flatten_layers()} == {"keras"}


def test_a_model_that_was_compiled_opens_uncompiled(fixture):
    for case in ("compiled_with_old_optimizer", "compiled_with_metrics"):
        for file in ("model.h5", "model.keras"):
            assert not fixture(f"keras_2.15/{case}/{file}").open().compiled


def test_damaged_configs_raise_backbone_errors_only(unpacked):
    random = np.random.default_rng(0)
    files = [f for f in unpacked[1].values() if f.path.suffix == ".json"]
    refused = 0
    for _ in range(400):
        fixture = files[random.integers(len(files))]
        config = json.loads(fixture.path.read_text())
        for _ in range(2):
            _break(config, random)
        try:
            translate(config, major_version=1 if "keras_1" in fixture.runtime else 2)
        except BackboneError:
            refused += 1
    assert 50 < refused < 350


def _break(value, random):
    """Replace something somewhere inside a config."""
    while True:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        if not keys:
            return
        key = keys[random.integers(len(keys))]
        if not isinstance(value[key], dict | list) or random.random() < 0.1:
            replacements = (None, -1, "x", [], {}, [["x", 0, 0, {}]], {"class_name": "Dense"})
            value[key] = replacements[random.integers(len(replacements))]
            return
        value = value[key]


def test_frozen_layers_of_an_old_file_get_their_own_weights(fixture):
    """Keras 2 stored them in another order."""
    old = fixture("keras_2.15/frozen_layers/model.h5")
    assert old.difference(old.open()) <= old.tolerance
