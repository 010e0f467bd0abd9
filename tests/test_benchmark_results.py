"""Rows of benchmarks are kept in one file, whoever measured them, and read as one table."""

import json
import sys

from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.growth import compare_points
from benchmarks.results import Row, draw, keep, markdown, recall
from benchmarks.worth import compare

ROWS = [
    Row("step", "model.fit", value=1.25, least=0.97, cpu=1.3, ours="9 images/s"),
    Row("start", "import keras", value=8.0, least=10.0),
    Row("probe", "random weights", value=5.25, least=5.0, unit="points", note="3 splits"),
]


def test_rows_of_several_benchmarks_share_a_file_and_a_table(tmp_path):
    file = tmp_path / "new" / "results.json"
    keep(file, "step", command="python -m benchmarks step", rows=ROWS[1:])
    keep(file, "other", command="python -m benchmarks other", rows=ROWS[1:])
    keep(file, "step", command="python -m benchmarks step --repeats 9", rows=ROWS[:1])
    assert recall(file) == {"step": ROWS[:1], "other": ROWS[1:]}
    entry = json.loads(file.read_text())["step"]
    assert entry["rows"][0]["held"] and entry["machine"]["cores"] >= 1
    table = markdown(file)
    assert "| step | model.fit | 1.25x | 1.30x | 0.97x, met |  |" in table
    assert "| start | import keras | 8.00x |  | 10.0x, MISSED |  |" in table
    assert "| probe | random weights | +5.2 points |  | +5.0 points, met | 3 splits |" in table
    assert "    python -m benchmarks step --repeats 9\n" in table
    assert table.count("TensorFlow") == 1  # one machine is described once
    draw(file, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5_000


def test_help_names_every_benchmark(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--help"])
    main()
    said = capsys.readouterr().out
    assert all(f"\n{name} " in said for name in BENCHMARKS)


def test_growth_is_held_against_proportion():
    before = {"axis": "images", "value": 1, "reading_seconds": 1, "training_seconds": 1}
    after = {"axis": "images", "value": 4, "reading_seconds": 2, "training_seconds": 2}
    time, memory = compare_points({**before, "peak_mib": 100}, {**after, "peak_mib": 130})
    assert time.value == 2.0 and time.held
    assert not memory.held


def test_a_gain_in_accuracy_that_chance_may_explain_does_not_hold():
    def rows(name, accuracies, seconds):
        cost = {"macro_f1": 0.5, "seconds": seconds, "cpu_seconds": seconds}
        return [
            {"name": name, "accuracy": accuracy, "seed": seed, **cost}
            for seed, accuracy in enumerate(accuracies)
        ]

    measured = rows("recipe", (0.7, 0.7, 0.7), 10) + rows("default", (0.7, 0.7, 0.9), 4)
    time, mean, low_end = compare(measured, title="photos")
    assert time.value == 2.5 and time.held
    assert round(mean.value, 1) == 6.7 and mean.held
    assert low_end.value < 0 and not low_end.held
