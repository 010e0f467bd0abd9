"""`tfinetune search` as a person uses it: killed, resumed, read by a machine."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tfinetune import search
from tfinetune.errors import SearchError


@pytest.mark.slow
def test_search_that_was_killed_goes_on_where_it_was(world, here, tmp_path, monkeypatch):
    monkeypatch.setenv("TFINETUNE_CACHE", str(world.cache))
    folder = tmp_path / "s"
    (tmp_path / "space.yaml").write_text(
        "learning_rate: {low: 0.001, high: 0.1, log: true}\ndropout: [0.2, 0.4]\nbatch_size: 8\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "tfinetune", "search", world.photos, "--backbone", world.backbone,
         "--strategy", "head", "--epochs", "2", "--trials", "3", "--oracle", "random",
         "--validation", "0.25", "--margin", "0", "--space", tmp_path / "space.yaml",
         "--set", "augmentation=none", "--output", folder],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    record = folder / "trials/trial_0/trial.json"  # a trial is finished when the oracle says so
    while process.poll() is None:
        if record.exists() and json.loads(record.read_text())["status"] == "COMPLETED":
            break
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    paths = sorted(folder.glob("trials/*/result.json"))
    before = {path: path.stat().st_mtime_ns for path in paths[:1]}  # the next may be repeated

    done = here("search", "--resume", "--output", folder, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["leaderboard"]) == 3
    assert {row["status"] for row in found["leaderboard"]} == {"completed"}
    assert before and before == {path: path.stat().st_mtime_ns for path in before}
    accuracies = {row["trial"]: row["metrics"]["val_accuracy"] for row in found["leaderboard"]}
    assert found["leaderboard"][0]["metrics"]["val_accuracy"] == max(accuracies.values())
    assert found["metrics"]["test"]["n"] > 0
    for name in ("report.html", "leaderboard.json", "log.txt", "best/manifest.json"):
        assert (folder / name).is_file()


def test_files_in_a_space_are_found_from_any_folder(here, tmp_path, monkeypatch):
    asked = []

    def run(question, *arguments, **options):
        asked.append(question)
        raise SearchError("That is all.")

    monkeypatch.setattr(search, "run", run)
    monkeypatch.chdir(tmp_path)
    for name in ("a.keras", "b.keras", "w.h5"):
        (tmp_path / name).touch()
    for name in ("saved", "MobileNetV2", "imagenet"):  # no folder of that name is meant by a name
        (tmp_path / name).mkdir()
    (tmp_path / "space.yaml").write_text(
        "backbone: [a.keras, MobileNetV2, ./b.keras, saved]\n"
        "dropout: {values: [0.1, 0.2], when: {backbone: [a.keras]}}\n"
    )
    a, b, weights = (str(tmp_path / name) for name in ("a.keras", "b.keras", "w.h5"))
    here("search", "photos", "--space", "space.yaml", "--set", "weights=[imagenet, w.h5]",
         "--output", "s")  # fmt: skip
    here("search", "photos", "--set", "backbone=[b.keras, a.keras]", "--output", "s")
    of_file, of_option = (question.space for question in asked)
    saved = str(tmp_path / "saved")
    assert of_file["backbone"] == {"values": [a, "MobileNetV2", b, saved]}
    assert of_file["dropout"] == {"values": [0.1, 0.2], "when": {"backbone": [a]}}
    assert of_file["weights"] == {"values": ["imagenet", weights]}
    assert of_option["backbone"] == {"values": [b, a]}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["photos"], 2, "--output FOLDER is needed"),
        (["--output", "s"], 2, "name a folder of photos, or --resume"),
        (["--worker", "--output", "s"], 2, "--worker needs --chief"),
        (["--worker", "--chief", "nowhere", "--output", "s"], 1, "named HOST:PORT"),
        (
            ["--resume", "--output", "s", "--trials", "9", "--no-prune", "--set", "dropout=0"],
            2,
            "leave out --trials, --set, --prune, or start a new search",
        ),
        (["--worker", "--chief", "a:1", "--output", "s", "--epochs", "2"], 2, "leave out --epochs"),
        (
            ["photos", "--worker", "--chief", "a:1", "--output", "s", "--workers", "2", "--json"],
            2,
            "leave out source, --workers, --json",
        ),
        (["photos", "--output", "s", "--max-time", "-1"], 2, "Invalid value for '--max-time'"),
        (
            ["--resume", "--output", "s", "--max-time", "3", "--workers", "2", "--json"],
            1,
            "There is no search in s",
        ),
        (["--resume", "--output", "s"], 1, "There is no search in s"),
        (["photos", "--output", "s", "--set", "colour=1"], 1, "no parameter 'colour'"),
        (["photos", "--output", "s", "--objective", "f1"], 1, "Nothing called 'f1' is measured"),
        (["photos", "--output", "s", "--oracle", "magic"], 1, "oracle: Input should be"),
    ],
)
def test_bad_usage_is_one_paragraph(arguments, code, words, here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = here("search", *arguments)
    assert done.returncode == code
    assert words in " ".join(done.stderr.split()) and "Traceback" not in done.stderr
    assert not (tmp_path / "s").exists()
