"""Hostile and damaged files end in an error of ours: soon, cheaply, and never in a crash."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import pytest
from hostile import KINDS, reason_of, write_hostile

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is measured through /proc"),
]
HERE = Path(__file__).parent
MAX_CPU_SECONDS = 2.0  # Of processor time: wall time depends on what else runs here.
MAX_MEGABYTES = 500


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> list[Path]:
    """Small models of several kinds, in both formats and in the dialect of Keras 2."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3)(image))
    cnn = keras.Model(image, layers.Dense(2, "softmax")(layers.GlobalAveragePooling2D()(x)))
    tokens = keras.Input((5,))
    x = layers.Bidirectional(layers.GRU(3))(layers.Embedding(10, 4)(tokens))
    text = keras.Model(tokens, layers.Dense(2)(x))
    text.compile("adam", "mse")
    folder = tmp_path_factory.mktemp("originals")
    for model, name in ((cnn, "cnn"), (text, "text")):
        model.save(folder / f"{name}.keras")
        model.save(folder / f"{name}.h5")
    _write_in_dialect_of_keras_2(shutil.copy(folder / "cnn.h5", folder / "old.h5"))
    return sorted(folder.iterdir())


def _write_in_dialect_of_keras_2(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            settings = layer["config"]
            settings.pop("dtype", None)
            if "batch_shape" in settings:
                settings["batch_input_shape"] = settings.pop("batch_shape")
            layer["inbound_nodes"] = [
                [[*node["args"][0]["config"]["keras_history"], {}]]
                for node in layer["inbound_nodes"]
            ]
        for end in ("input_layers", "output_layers"):
            config["config"][end] = [config["config"][end]]
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = file["model_weights"].attrs["keras_version"] = "2.4.0"


@pytest.fixture(scope="module")
def opened(originals, tmp_path_factory) -> dict[str, dict]:
    """What was measured when sound files (by name) and hostile ones (by kind) were opened."""
    h5, zipped = originals[:2]
    folder = tmp_path_factory.mktemp("hostile")
    files = {path.name: path for path in originals}
    for number, kind in enumerate(KINDS):
        copies = [Path(shutil.copy(h5, folder / f"{number}.h5"))]
        copies.append(Path(shutil.copy(zipped, folder / f"{number}.keras")))
        files[kind] = write_hostile(kind, *copies)
    rows = _open_all(list(files.values()))
    shutil.rmtree(folder)
    return dict(zip(files, rows, strict=True))


def test_the_sound_files_open(opened, originals):
    assert [opened[path.name]["error"] for path in originals] == [None] * len(originals)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_refused_soon_and_cheaply(opened, kind):
    row = opened[kind]
    assert "BackboneError" in row["error"]
    assert re.search(reason_of(kind), row["message"])
    assert row["cpu_seconds"] < MAX_CPU_SECONDS
    assert row["megabytes"] < MAX_MEGABYTES


@pytest.fixture(scope="module")
def fuzzed(originals, tmp_path_factory) -> tuple[dict, list[Path]]:
    """How 2,000 damaged files ended in the preflight, and those it accepted."""
    folder = tmp_path_factory.mktemp("fuzz")
    command = [sys.executable, HERE / "fuzz_preflight.py", folder, "2000", "0", *originals]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "stderr": done.stderr}, sorted(folder.iterdir())


def test_2000_damaged_files_end_in_an_answer_or_at_the_limit(fuzzed):
    outcome, _ = fuzzed
    assert outcome["unexpected"] == [], outcome["stderr"]
    assert sum(outcome["endings"].values()) == 2000
    assert outcome["endings"]["refused"] > 1000


def test_100_damaged_files_that_the_preflight_accepts_load_or_raise_our_errors(fuzzed):
    _, accepted = fuzzed
    for path, row in zip(accepted[:100], _open_all(accepted[:100]), strict=True):
        assert row["error"] is None or "BackboneError" in row["error"], (path, row)


def _open_all(paths: list[Path]) -> list[dict]:
    """Load files one after the other in a process with TensorFlow, and return what it measured."""
    command = [sys.executable, HERE / "measure_refusals.py", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"crashed at {paths[len(rows)]}: {done.stderr[-2000:]}"
    return rows
