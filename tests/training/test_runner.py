"""The runner: what ships, what is frozen, what a schedule does, what divergence does."""

import numpy as np
import pytest

import tfinetune as ft
from tfinetune.errors import RunError, TrainingError
from tfinetune.training import Candidate, Checkpoint, Phase, run_phases
from tfinetune.training.class_weights import class_weights
from tfinetune.training.runner import build_optimizer, choose


@pytest.fixture
def splits(photo_folder):
    return ft.data.from_image_folder(photo_folder(), image_size=16, validation=0.25, test=0.25)


def candidate(name, accuracy, loss, value=0.0):
    return Candidate(name, [np.float32([value])], accuracy, loss)


def test_better_validation_accuracy_ships_and_the_loss_decides_a_tie():
    probe, tuned = candidate("probe", 0.8, 0.5), candidate("finetune", 0.7, 0.1)
    assert choose([probe, tuned]) is probe
    assert choose([probe, candidate("finetune", 0.8, 0.4)]).phase == "finetune"


def test_without_validation_the_last_ships():
    assert choose([candidate("probe", None, None), candidate("full", None, None)]).phase == "full"


def test_diverged_candidate_with_finite_weights_does_not_ship():
    probe, diverged = candidate("probe", 0.4, 1.0), candidate("finetune", None, None)
    assert choose([probe, diverged]) is probe


def test_candidate_that_is_not_finite_never_ships():
    good, bad = candidate("probe", 0.2, 2), candidate("finetune", 0.9, 0.1, np.nan)
    assert choose([good, bad]) is good
    with pytest.raises(TrainingError, match=r"diverged.*learning rate"):
        choose([bad])


def test_shipped_weights_are_the_best_epoch(small_cnn, splits):
    tuner = ft.FineTuner(small_cnn(), splits.spec)
    outcome = tuner.fit(splits, ft.strategies.LPFT(epochs=3, learning_rate=0.05), batch_size=8)
    rows = [row for row in outcome.history if row["phase"] == "finetune"]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    best = max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    tuned = outcome.candidates[1]
    assert (tuned.epoch, tuned.accuracy) == (best["epoch"], best["val_accuracy"])
    shipped = outcome.shipped
    assert shipped.score == max(c.score for c in outcome.candidates)
    measured = tuner.evaluate(splits.validation)
    assert measured["accuracy"] == pytest.approx(shipped.accuracy)


def test_fine_tuning_keeps_batch_norm_statistics_and_moves_convolutions(small_cnn, splits):
    tuner = ft.FineTuner(small_cnn(), splits.spec)
    before = {v.path: np.array(v) for v in tuner.backbone.model.weights}
    phase = Phase(name="all", trainable="all", epochs=2, learning_rate=0.01)
    run_phases(tuner.assembly, splits, phases=[phase], batch_size=8)
    for variable in tuner.backbone.model.weights:
        moved = not np.array_equal(before[variable.path], np.array(variable))
        assert moved == ("conv_" in variable.path), variable.path


def test_schedule_warms_up_then_falls_to_zero(small_cnn, splits):
    tuner = ft.FineTuner(small_cnn(), splits.spec)
    phase = Phase(name="all", epochs=1, learning_rate=0.1, warmup=0.2)
    schedule = build_optimizer(phase, tuner.assembly, steps=100)._learning_rate
    rates = np.array([float(schedule(step)) for step in (0, 10, 20, 60, 100)])
    np.testing.assert_allclose(rates, [0, 0.05, 0.1, 0.05, 0], atol=1e-7)


def test_diverged_fine_tuning_ships_the_probe(small_cnn, splits):
    tuner = ft.FineTuner(small_cnn(), splits.spec)
    phases = [
        Phase(name="probe", trainable="head", solver="logistic"),
        Phase(name="boom", epochs=2, learning_rate=1e30, clip_norm=None, warmup=0),
    ]
    outcome = run_phases(tuner.assembly, splits, phases=phases, batch_size=8)
    assert outcome.shipped.phase == "probe"
    assert all(np.isfinite(w).all() for w in tuner.assembly.get_weights())


def test_class_weights_start_past_three_to_one(photo_folder):
    folder = photo_folder(per_class=13, classes=("a", "b"))
    splits = ft.data.from_image_folder(folder, image_size=16, validation=0, test=0)
    assert class_weights(splits.train) is None
    for path in sorted((folder / "a").iterdir())[4:]:
        path.unlink()
    splits = ft.data.from_image_folder(folder, image_size=16, validation=0, test=0)
    weights = class_weights(splits.train)
    assert weights[0] / weights[1] == pytest.approx(13 / 4)
    assert class_weights(splits.train, mode="never") is None


def test_run_killed_between_its_last_epoch_and_the_next_phase_resumes(small_cnn, splits, tmp_path):
    def fit(name):
        tuner = ft.FineTuner(small_cnn(), splits.spec)
        phase = Phase(name="all", epochs=2, learning_rate=0.01)
        checkpoint = Checkpoint(tmp_path / name)
        run_phases(tuner.assembly, splits, phases=[phase], batch_size=8, checkpoint=checkpoint)
        return tuner.assembly.get_weights(), checkpoint

    class Killed(Exception):
        pass

    whole, _ = fit("whole.npz")
    save = Checkpoint.save
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):

        def save_until_the_phase_ends(self, state):
            if state.phase == 1:
                raise Killed
            save(self, state)

        patch.setattr(Checkpoint, "save", save_until_the_phase_ends)
        fit("killed.npz")
    resumed, checkpoint = fit("killed.npz")
    assert len(checkpoint.load().history) == 2
    for first, second in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(first, second)


def test_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "last.npz"
    for content in (b"", b"PK\x03\x04 not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(RunError, match="last.npz is damaged.*Delete it"):
            Checkpoint(path).load()


def test_temperature_stays_one_without_a_mistake_and_rises_with_overconfident_ones(
    small_cnn, splits, monkeypatch
):
    tuner = ft.FineTuner(small_cnn(), splits.spec)
    labels = splits.validation.labels
    logits = 9.0 * np.eye(3, dtype="float32")[labels]
    monkeypatch.setattr(tuner, "logits", lambda split: logits)
    assert tuner.calibrate(splits.validation) == 1.0
    logits[0] = np.roll(logits[0], 1)
    assert tuner.calibrate(splits.validation) > 1.5
    np.testing.assert_allclose(tuner.calibrated(logits).sum(axis=1), 1, atol=1e-5)


def test_mixed_examples_weigh_as_their_classes_do(small_cnn, splits):
    """Where hardly anything is learnt, the loss is that of the labels and their weights."""
    tuner = ft.FineTuner(small_cnn(), splits.spec, dropout=0)
    weights = {0: 1.0, 1: 2.0, 2: 4.0}
    phase = Phase(name="head", trainable="head", epochs=1, learning_rate=1e-9)
    augment = "flip, mixup=1"
    outcome = run_phases(
        tuner.assembly,
        splits,
        phases=[phase],
        batch_size=8,
        augment=augment,
        class_weights=weights,
    )
    (row,) = outcome.history
    batches = splits.train.dataset(8, epoch=0, shuffle=True, augment=augment)
    losses, correct = [], []
    for images, labels in batches:
        logits = np.asarray(tuner.assembly.logits_model(images, training=False))
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        losses += list(-(labels * log_p).numpy().sum(axis=1) * (labels @ [[1.0], [2], [4]])[:, 0])
        correct += list(logits.argmax(axis=1) == labels.numpy().argmax(axis=1))
    assert row["accuracy"] == pytest.approx(np.mean(correct))
    assert row["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert np.isfinite(row["val_loss"])
