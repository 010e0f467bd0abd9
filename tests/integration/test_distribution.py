"""Training under a strategy: the weights, metrics and files of one device."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfinetune as ft
from tfinetune import distribution
from tfinetune.errors import DeviceError, RecipeError
from tfinetune.training import precision

SCRIPT = Path(__file__).with_name("fit_on_two_devices.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the script writes: it needs a process of its own, for a CPU is split before its use."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("two_devices")
    random = np.random.default_rng(0)
    for channel, name in enumerate(("blue", "green", "red")):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(8 + channel):
            pixels = random.integers(0, 150, (16, 16, 3))
            pixels[..., 2 - channel] += 60
            Image.fromarray(pixels.astype("uint8")).save(folder / "photos" / name / f"{number}.png")
    subprocess.run([sys.executable, SCRIPT, folder / "photos", folder], check=True, timeout=500)
    return folder


@pytest.fixture(scope="module")
def outcome(folder):
    return json.loads((folder / "outcome.json").read_text())


def test_weights_are_those_of_one_device_whatever_the_sizes_of_the_batches(outcome):
    train, validation = outcome["sizes"]
    assert train % 5 == validation % 5 == 1  # of five one device gets two, of one none
    one, two = outcome["one"], outcome["two"]
    assert (one["replicas"], two["replicas"]) == (1, 2)
    for expected, received in zip(one["weights"], two["weights"], strict=True):
        np.testing.assert_allclose(received, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(*two["copies"])


def test_metrics_count_every_example_once(outcome):
    one, two = outcome["one"], outcome["two"]
    assert one["accuracy"] == two["accuracy"]
    assert len(two["history"]) == 4
    for expected, received in zip(one["history"], two["history"], strict=True):
        for name in ("accuracy", "val_accuracy", "val_loss", "learning_rate"):
            assert received[name] == pytest.approx(expected[name], abs=1e-5), name


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("batch_norm", "batch_norm='adapt' cannot be distributed"),
        ("precision", "mixed_float16 cannot be distributed"),
        ("texts", "model of texts cannot be distributed"),
        ("scope", "opened outside the strategy's scope"),
    ],
)
def test_what_would_differ_is_refused(outcome, what, words):
    assert words in outcome["refusals"][what]


def test_graph_of_a_distributed_step_is_freed(outcome):
    assert outcome["graph_is_freed"]


def test_plan_measures_a_step_as_it_is_shared_out(outcome):
    assert outcome["estimated_seconds"]["head"] > 0


def test_search_trains_every_trial_under_the_strategy_and_its_winner_is_an_ordinary_run(folder):
    leaderboard = json.loads((folder / "search" / "leaderboard.json").read_text())
    assert [result["status"] for result in leaderboard] == ["completed"] * 2
    run = ft.open_run(folder / "search" / "best")
    assert run.recipe.distribute == "mirrored"
    photos = sorted((folder / "photos").rglob("*.png"))
    probabilities, failures = run.predict(photos)
    assert not failures
    served = tf.saved_model.load(run.folder.saved_model_path).signatures["serving_bytes"]
    answer = served(tf.constant([photo.read_bytes() for photo in photos]))
    np.testing.assert_allclose(answer["probabilities"], probabilities, atol=1e-5)
    tuner, splits = run.finetuner()  # the recipe goes on with the one device of this process
    assert tuner.replicas == 1
    assert tuner.evaluate(splits.validation)["accuracy"] == run.metrics["validation"]["accuracy"]


def test_batches_are_filled_with_examples_that_weigh_nothing(monkeypatch):
    monkeypatch.setattr(distribution, "replicas", lambda: 4)
    labels = np.int32([0, 1, 2, 3, 4, 5, 6])
    batches = tf.data.Dataset.from_tensor_slices((10 * labels, labels)).batch(6)
    full, rest = distribution.share_out(batches, batch_size=6).as_numpy_iterator()
    for (inputs, targets, weights), count in ((full, 6), (rest, 1)):
        assert inputs.shape == targets.shape == weights.shape == (8,)
        np.testing.assert_array_equal(inputs, 10 * targets)
        np.testing.assert_allclose(weights, [8 / count] * count + [0] * (8 - count))
    np.testing.assert_array_equal(full[1], [0, 1, 2, 3, 4, 5, 0, 1])


def test_unknown_name_and_missing_tpu_are_clear_errors(small_cnn, photo_folder):
    with pytest.raises(RecipeError, match="distribute.*'none', 'mirrored' or 'tpu'.*'cluster'"):
        ft.Recipe(data="photos", distribute="cluster")
    with pytest.raises(DeviceError, match="'cluster'.*Known: none, mirrored, tpu"):
        distribution.device_strategy("cluster")
    with pytest.raises(DeviceError, match="No TPU can be used as 'local'.*TPU_NAME"):
        distribution.device_strategy("tpu")


@pytest.mark.parametrize("command", ["train", "search"])
def test_commands_pass_the_name_on(here, command, tmp_path):
    done = here(command, tmp_path, "--output", tmp_path / "run", "--distribute", "cluster")
    assert done.returncode == 1
    assert "distribute: Input should be 'none', 'mirrored' or 'tpu' (got 'cluster')" in " ".join(
        done.stderr.split()
    )


def test_mirrored_on_one_device_needs_no_strategy_and_says_so(small_cnn, photo_folder):
    said = []

    class Reporter(ft.Reporter):
        def say(self, sentence):
            said.append(sentence)

    splits = ft.data.from_image_folder(photo_folder(), image_size=16)
    ft.FineTuner(small_cnn(), splits.spec, distribute="mirrored", reporter=Reporter())
    assert not distribution.is_distributed()
    assert said == ["distribute='mirrored' finds one device: nothing is shared out."]


def test_auto_precision_takes_none_that_cannot_be_distributed(small_cnn, photo_folder, monkeypatch):
    splits = ft.data.from_image_folder(photo_folder(), image_size=16)
    monkeypatch.setattr(precision, "_known_by_hardware", lambda: ("mixed_float16", "GPU"))
    monkeypatch.setattr(precision, "replicas", lambda: 2)
    tuner = ft.FineTuner(small_cnn(), splits.spec, precision="auto")
    assert tuner.precision.describe() == "float32 (mixed_float16 cannot be distributed)"
