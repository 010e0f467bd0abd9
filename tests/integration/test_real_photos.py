"""The main job on real photos with real backbones, at a size that takes seconds."""

import shutil

import keras
import numpy as np
import pytest
import yaml

import tfinetune as ft
from tfinetune.demo import write_digits
from tfinetune.errors import DataError, OutOfMemoryError, RecipeError, RunError
from tfinetune.workflow.prepare import EMBEDDED_BACKBONE
from tfinetune.workflow.summary import evaluate


@pytest.fixture(scope="module")
def some_trash(shared, tmp_path_factory):
    """Thirty photos of each of three classes, linked."""
    folder = tmp_path_factory.mktemp("trash")
    for name in ("glass", "paper", "plastic"):
        (folder / name).mkdir()
        for photo in sorted((shared / "data/trash" / name).iterdir())[:30]:
            (folder / name / photo.name).symlink_to(photo)
    return folder


@pytest.fixture(scope="module")
def run(some_trash, shared, tmp_path_factory):
    recipe = ft.Recipe(
        data=str(some_trash),
        backbone=str(shared / "models/teachable_machine_waste/keras_model.h5"),
        image_size=96,
        test=0.3,
        strategy="linear_probe",
    )
    return ft.train(recipe, tmp_path_factory.mktemp("runs") / "trash")


@pytest.mark.slow
def test_pretrained_features_beat_chance_by_far_and_parity_holds(run):
    assert run.metrics["test"]["accuracy"] > 0.55  # chance is a third
    assert max(row["max_difference"] for row in run.metrics["parity"]) <= 1e-4
    assert run.metrics["calibration"]["split"] == "test"


@pytest.mark.slow
def test_saved_model_file_predicts_what_the_run_reports(run, some_trash):
    files = sorted((some_trash / "glass").iterdir())[:8]
    probabilities, failures = run.predict(files)
    assert failures == {}
    images = np.stack(
        [ft.data.decode_image(f.read_bytes(), image_size=(96, 96), aspect="stretch") for f in files]
    )
    plain = keras.models.load_model(run.folder.model_path)
    np.testing.assert_allclose(
        plain.predict(images.astype("float32"), verbose=0), probabilities, atol=1e-5
    )


@pytest.mark.slow
def test_finetuner_of_a_run_gives_the_reported_numbers(run):
    tuner, splits = run.finetuner()
    assert tuner.evaluate(splits.test) == run.metrics["test"]


@pytest.mark.slow
def test_report_names_what_happened(run):
    page = run.folder.report_path.read_text()
    for words in ("glass", "[-1, 1]", "probe", "serving_bytes"):
        assert words in page
    assert "http://" not in page and "https://" not in page


@pytest.mark.slow
def test_photos_that_changed_are_noticed(run, some_trash, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run.folder.path, copy)
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    photos = tmp_path / "photos"
    shutil.copytree(some_trash, photos)
    next((photos / "glass").iterdir()).unlink()
    (copy / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "data": str(photos)}))
    (copy / "manifest.json").unlink()
    with pytest.raises(RunError, match="The photos changed since the run"):
        ft.train(ft.Recipe.load(copy / "recipe.yaml"), copy, resume=True)


@pytest.fixture
def unvalidated_run(small_cnn, photo_folder, tmp_path):
    """A run of a model in memory, without a validation split."""
    recipe = ft.Recipe(
        data=str(photo_folder()), validation=0, strategy_parameters={"epochs": 2}, batch_size=8
    )
    return ft.train(recipe, tmp_path / "run", backbone=small_cnn(seed=5))


@pytest.mark.slow
def test_model_in_memory_reproduces_and_without_validation_the_last_epoch_ships(
    unvalidated_run, tmp_path
):
    first = unvalidated_run
    assert first.metrics["shipped"] == "finetune"
    assert first.metrics["validation"] is None and first.metrics["temperature"] == 1
    assert "last epoch of finetune ships" in first.folder.report_path.read_text()
    rows = first.folder.history_path.read_text().splitlines()
    assert len(rows) == 3 and rows[1].split(",")[4:6] == ["", ""]

    # The model was kept in the run, which may be moved.
    assert yaml.safe_load(first.folder.recipe_path.read_text())["backbone"] == "backbone.keras"
    (tmp_path / "run").rename(tmp_path / "moved")
    again = ft.train(ft.Recipe.load(tmp_path / "moved/recipe.yaml"), tmp_path / "again")
    assert again.metrics["test"] == first.metrics["test"]


def test_diverged_fine_tuning_is_reported_and_the_probe_ships(small_cnn, photo_folder):
    splits = ft.data.from_image_folder(photo_folder(), image_size=16)
    tuner = ft.FineTuner(small_cnn(), splits.spec)
    tuner.fit(splits, ft.strategies.LPFT(epochs=2, learning_rate=1e30), batch_size=8)
    metrics, _ = evaluate(tuner, splits)
    assert metrics["shipped"] == "probe"
    assert "against finetune diverged" in metrics["shipped_because"]


def test_recipe_of_another_decoder_is_refused(tmp_path, small_cnn):
    recipe = ft.Recipe(data=str(tmp_path), decoder_version=99)
    with pytest.raises(RecipeError, match="decoder 99"):
        ft.train(recipe, tmp_path / "run", backbone=small_cnn())


def test_model_that_the_user_compiled_is_saved_uncompiled(small_cnn, photo_folder, tmp_path):
    splits = ft.data.from_image_folder(photo_folder(), image_size=16)
    tuner = ft.FineTuner(small_cnn(), splits.spec)
    tuner.model.compile(ft.optimizers.AdamW(1e-3), "sparse_categorical_crossentropy")
    tuner.model.fit(splits.train.dataset(8), verbose=0)
    tuner.save(tmp_path / "model.keras")
    assert not keras.models.load_model(tmp_path / "model.keras").compiled
    before = tuner.model.predict(splits.train.dataset(8), verbose=0)
    after = keras.models.load_model(tmp_path / "model.keras").predict(
        splits.train.dataset(8), verbose=0
    )
    np.testing.assert_array_equal(before, after)
    np.testing.assert_allclose(tuner.probabilities(splits.train), before, atol=1e-5)


def test_failed_preparation_leaves_the_folder_empty(small_cnn, tmp_path):
    output = tmp_path / "run"
    with pytest.raises(DataError, match="nowhere"):
        ft.train(ft.Recipe(data=str(tmp_path / "nowhere")), output, backbone=small_cnn())
    assert list(output.iterdir()) == []


def test_out_of_memory_advises_batch_and_image_size(small_cnn, photo_folder, monkeypatch):
    import tensorflow as tf

    splits = ft.data.from_image_folder(photo_folder(), image_size=16)
    tuner = ft.FineTuner(small_cnn(), splits.spec)

    def explode(*arguments, **options):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr("tfinetune.finetuner.run_phases", explode)
    with pytest.raises(OutOfMemoryError, match=r"16x16 pixels with --batch-size 32.*half"):
        tuner.fit(splits)


def test_demo_backbone_transfers_to_digits(tmp_path):
    write_digits(tmp_path / "digits")
    splits = ft.data.from_image_folder(tmp_path / "digits", image_size=32, validation=0)
    assert (len(splits.train), len(splits.test)) == (200, 1597)
    tuner = ft.FineTuner(EMBEDDED_BACKBONE, splits.spec)
    tuner.fit(splits, ft.strategies.LinearProbe(), augment="no_flip")
    assert tuner.evaluate(splits.test)["accuracy"] > 0.95
