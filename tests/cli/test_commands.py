"""The command line as a person uses it: real processes, exit codes, one-paragraph errors."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest


def tfinetune(*arguments, cwd=None, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "tfinetune", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def assert_one_paragraph(done, *words, code=1):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for word in words:
        assert word in " ".join(done.stderr.split()), done.stderr


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """One finished tiny run, with its photos and backbone, made by the command itself."""
    import keras
    from keras import layers
    from PIL import Image

    folder = tmp_path_factory.mktemp("work")
    random = np.random.default_rng(0)
    for index, name in enumerate(("blue", "green", "red")):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(0, 120, (20, 24, 3))
            pixels[..., 2 - index] += 90
            Image.fromarray(pixels.astype("uint8")).save(folder / "photos" / name / f"{number}.png")
    (folder / "photos" / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a photo")
    (folder / "photos" / "notes.txt").write_text("stray")
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 255.0)(image)
    x = layers.Conv2D(8, 3, strides=2, use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(8, 3, strides=2)(x)
    x = layers.Dense(5, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    keras.Model(image, x).save(folder / "base_model.h5")
    done = tfinetune(
        "train", "photos", "--backbone", "base_model.h5", "--output", "runs/photos",
        "--epochs", "2", "--batch-size", "8", "--json", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder / "train.json").write_text(done.stdout)
    return folder


def test_help_names_every_command():
    done = tfinetune("--help")
    assert done.returncode == 0
    for name in ("demo", "train", "search", "evaluate", "predict", "inspect", "export"):
        assert name in done.stdout


def test_train_prints_metrics_and_writes_every_artifact(workplace):
    metrics = json.loads((workplace / "train.json").read_text())
    run = workplace / "runs/photos"
    assert metrics["test"]["n"] > 0 and metrics["test"]["accuracy"] > 0.5
    for name in (
        "recipe.yaml", "phases.json", "history.csv", "log.txt", "model.keras", "metrics.json",
        "report.html", "saved_model/1/saved_model.pb", "manifest.json", "checkpoints/last.npz",
    ):  # fmt: skip
        assert (run / name).stat().st_size > 0, name
    listed = json.loads((run / "manifest.json").read_text())["sha256"]
    assert {"model.keras", "report.html", "saved_model/1/saved_model.pb"} <= listed.keys()
    assert "broken.jpg" in (run / "report.html").read_text()


def test_model_loads_in_plain_keras_where_tfinetune_cannot_be_imported(workplace):
    script = (
        "import sys; sys.modules['tfinetune'] = None\n"
        "import keras, numpy as np\n"
        "model = keras.models.load_model('runs/photos/model.keras')\n"
        "p = model.predict(np.zeros((2, 16, 16, 3)), verbose=0)\n"
        "assert abs(p.sum(1) - 1).max() < 1e-5 and not model.compiled\n"
        "assert {layer.name for layer in model.layers} >= {'logits', 'probabilities'}\n"
        "print('ok')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=workplace, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "ok", done.stderr


def test_recipe_reproduces_the_run(workplace, here, monkeypatch):
    monkeypatch.chdir(workplace)
    done = here("train", "--recipe", "runs/photos/recipe.yaml", "--output", "runs/again", "--json")
    assert done.returncode == 0, done.stderr
    first, second = json.loads((workplace / "train.json").read_text()), json.loads(done.stdout)
    assert first["test"] == second["test"] and first["candidates"] == second["candidates"]


def test_predict_gives_json_csv_and_a_line_for_a_bad_file(workplace, here, monkeypatch):
    monkeypatch.chdir(workplace)
    files = ["photos/red/0.png", "photos/red/broken.jpg"]
    done = here("predict", "runs/photos", *files, "--top", "2", "--json")
    good, bad = json.loads(done.stdout)
    assert len(good["predictions"]) == 2 and good["error"] is None
    assert good["predictions"][0]["label"] == "red"
    assert bad["predictions"] == [] and bad["error"]
    assert "1 of 2 files could not be read" in done.stderr
    done = here("predict", "runs/photos", "photos/red/0.png", "--csv")
    rows = done.stdout.splitlines()
    assert rows[0] == "file,rank,label,probability,error" and len(rows) == 4


def test_evaluate_counts_unknown_and_missing_classes(workplace, tmp_path, here, monkeypatch):
    monkeypatch.chdir(workplace)
    (tmp_path / "red").symlink_to(workplace / "photos/red")
    (tmp_path / "purple").symlink_to(workplace / "photos/blue")
    done = here("evaluate", "runs/photos", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["metrics"]["n"] == 12
    assert result["unknown_classes"] == {"purple": 12}
    assert result["missing_classes"] == ["blue", "green"]
    assert [Path(row["path"]).name for row in result["set_aside"]] == ["broken.jpg"]


def test_inspect_describes_the_backbone(workplace, here, monkeypatch):
    monkeypatch.chdir(workplace)
    facts = json.loads(here("inspect", "base_model.h5", "--json").stdout)
    assert facts["parameters"] > 0 and facts["groups"]
    text = here("inspect", "base_model.h5").stdout
    assert "stem" in text and "[0, 255]" in text


def test_dry_run_shows_plan_and_time_and_writes_nothing(workplace, here, monkeypatch):
    monkeypatch.chdir(workplace)
    before = sorted((workplace / "runs").iterdir())
    done = here("train", "photos", "--backbone", "base_model.h5", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "finetune: about" in done.stdout and "36 photos of 3 classes, 1 set aside" in done.stdout
    assert sorted((workplace / "runs").iterdir()) == before


def test_export_writes_elsewhere_and_reports_parity(workplace, here, monkeypatch):
    monkeypatch.chdir(workplace)
    done = here("export", "runs/photos", "--output", "serving/1", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["parity"]
    assert {(r["route"], r["signature"]) for r in rows} == {
        (route, signature)
        for route in ("tf2", "v1")
        for signature in ("serving_default", "serving_bytes")
    }
    assert all(row["max_difference"] <= 1e-4 for row in rows)
    assert (workplace / "serving/1/saved_model.pb").exists()


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["train"], ["--output RUN is needed"], 2),
        (["train", "--output", "x"], ["name a folder of photos"], 2),
        (["train", "photos", "--output", "x", "--input-range", "wide"], ["LO,HI"], 2),
        (["train", "photos", "--output", "x", "--set", "a=["], ["is not a value"], 2),
        (["train", "--resume", "--recipe", "a", "--output", "x"], ["leave out --recipe"], 2),
        (["train", "--resume", "--dry-run"], ["--output RUN is needed"], 2),
        (["predict"], ["Missing argument"], 2),
        (["export", "runs/photos", "--output", "photos"], ["something else than a SavedModel"], 1),
        (["train", "photos", "--output", "x", "--batch-size", "0"], ["batch_size", "got 0"], 1),
        (["train", "photos", "--output", "x", "--strategy", "magic"], ["no strategy 'magic'"], 1),
        (["train", "photos", "--output", "x", "--set", "colour=1"], ["colour"], 1),
        (["train", "--resume", "--output", "photos"], ["no run to resume", "photos"], 1),
        (
            ["train", "--resume", "--output", "runs/photos", "--epochs", "9"],
            ["started with another recipe", "'epochs': 9"],
            1,
        ),
        (["train", "photos", "--output", "photos"], ["photos is not empty"], 1),
        (["train", "nowhere", "--backbone", "base_model.h5", "--output", "x"], ["nowhere"], 1),
        (["train", "photos", "--backbone", "photos/notes.txt", "--output", "x"], ["notes.txt"], 1),
        (["predict", "photos", "photos/red/0.png"], ["photos is not a run folder"], 1),
        (["predict", "runs/photos", "missing.png"], ["missing.png"], 1),
        (["evaluate", "runs/photos", "runs"], ["runs"], 1),
        (["inspect", "NoSuchNet"], ["NoSuchNet"], 1),
    ],
)
def test_wrong_input_is_one_paragraph_with_the_reason(
    workplace, arguments, words, code, here, monkeypatch
):
    monkeypatch.chdir(workplace)
    assert_one_paragraph(here(*arguments), *words, code=code)
    left = workplace / "x"
    assert not left.exists() or not any(left.iterdir())


def test_failed_start_leaves_a_folder_that_the_corrected_command_can_use(
    workplace, tmp_path, here, monkeypatch
):
    monkeypatch.chdir(workplace)
    options = ("--backbone", "base_model.h5", "--output", tmp_path / "run")
    assert here("train", "nowhere", *options).returncode == 1
    done = here("train", "photos", *options, "--strategy", "linear_probe")
    assert done.returncode == 0, done.stderr
    assert "accuracy, test" in done.stdout


def test_debug_shows_the_traceback(workplace):
    done = tfinetune("--debug", "inspect", "NoSuchNet", cwd=workplace)
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_names_that_look_like_markup_are_shown_as_they_are(workplace, here, monkeypatch):
    monkeypatch.chdir(workplace)
    (workplace / "[x].png").write_bytes((workplace / "photos/red/0.png").read_bytes())
    done = here("predict", "runs/photos", "[x].png")
    assert done.returncode == 0 and "[x].png" in done.stdout


@pytest.mark.slow
def test_interrupt_says_how_to_go_on_and_resume_finishes(workplace, tmp_path, here, monkeypatch):
    output = tmp_path / "run"
    command = [
        sys.executable, "-m", "tfinetune", "train", "photos", "--backbone", "base_model.h5",
        "--epochs", "50", "--output", str(output),
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=workplace, stderr=subprocess.PIPE, text=True)
    history = output / "history.csv"
    while process.poll() is None and not (history.exists() and "finetune" in history.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Interrupted" in errors and "--resume" in errors and "Traceback" not in errors
    assert not (output / "manifest.json").exists()
    epochs = len((output / "history.csv").read_text().splitlines()) - 1
    assert 1 <= epochs < 50
    monkeypatch.chdir(workplace)
    done = here("train", "--resume", "--output", output)
    assert done.returncode == 0, done.stderr
    assert len((output / "history.csv").read_text().splitlines()) == 51


@pytest.mark.slow
def test_full_disk_ends_with_one_paragraph_and_no_half_artifact(workplace, tmp_path):
    import resource

    done = tfinetune(
        "train", "photos", "--backbone", "base_model.h5", "--output", tmp_path / "run",
        "--strategy", "linear_probe", cwd=workplace,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    assert_one_paragraph(done, "Could not write")
    assert not list((tmp_path / "run").rglob("*.partial*"))
    assert not (tmp_path / "run" / "manifest.json").exists()
