"""The report as a file: complete, self-contained, escaped, and honest in its words."""

import re
import resource
import time
from dataclasses import fields, replace

import numpy as np
import pytest
from sample_report import make_report

from tfinetune.errors import DataError, StorageError
from tfinetune.evaluation import Mistake, ReportData, classification_metrics, write_report
from tfinetune.evaluation.formatting import duration, memory, number, percent, scientific
from tfinetune.evaluation.report import render_report
from tfinetune.evaluation.summary import summarize


@pytest.fixture(scope="module")
def page(report_data) -> str:
    return render_report(report_data)


def test_page_refers_to_nothing_outside_itself(page):
    assert "://" not in page
    assert not re.search(r"<(script|iframe|object|embed|base|form)\b", page)
    targets = re.findall(r'\b(?:src|href)="([^"]*)"', page)
    assert targets
    assert [
        t for t in targets if not t.startswith(("#", "data:image/jpeg;base64,", "data:,"))
    ] == []
    assert "default-src 'none'" in page


def test_every_link_within_the_page_arrives(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_hostile_names_are_escaped_wherever_text_goes():
    evil = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}\udcff\x00"
    report = make_report((evil, "b"), count=60, skill=0.5)
    rows = [{**report.history[0], "phase": evil}, *report.history]
    counts = {evil: {0: 1, 1: 2}}
    plan = [{**report.plan[0], "group": evil, "phase": evil}]
    texts = {
        field.name: evil for field in fields(report) if isinstance(getattr(report, field.name), str)
    }
    page = render_report(
        replace(
            report,
            history=rows,
            counts=counts,
            plan=plan,
            notes=[evil],
            stray_examples=[evil],
            quarantine=[{"path": evil, "reason": evil}],
            duplicates=[
                {"kind": evil, "ids": [evil], "splits": [evil, "b"], "conflicting_labels": True}
            ],
            candidates=[{"name": evil, "shipped": True}],
            backbone={"source": evil, "warnings": [evil], "notes": [evil], "sha256": evil},
            phase_seconds={evil: 1.0},
            versions={evil: evil},
            parity=[{**report.parity[0], "route": evil, "signature": evil}],
            comparison=[{"name": evil, "accuracy": 0.5, "interval": [0.4, 0.6], "seconds": 1.0}],
            **texts,
        )
    )
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "{{ 7 * 7 }}" in page  # text, not a template
    page.encode("utf-8")


def test_counts_are_shown_by_class_with_sums():
    counts = {"train": {0: 3, 1: 5, 2: 7}, "test": {1: 13}}
    page = render_report(ReportData(title="t", class_names=("items", "0", "a.b"), counts=counts))
    table = page[page.index('id="counts"') : page.index("</tfoot>")]
    cells = [int(cell) for cell in re.findall(r"<td>(\d+)</td>", table)]
    assert cells == [3, 0, 3, 5, 13, 18, 7, 0, 7, 15, 13, 28]


def test_counts_by_anything_but_class_index_are_refused():
    with pytest.raises(DataError, match=r"given for \['cat'\].*indices of the 1 class names"):
        ReportData(title="t", class_names=["cat"], counts={"train": {"cat": 3}})


def test_title_alone_makes_a_page_that_says_what_is_unknown():
    page = render_report(ReportData(title="nothing yet"))
    assert "How good this model is on new images is not known" in page
    assert "<section" not in page


def test_empty_test_set_falls_back_to_validation_and_says_what_that_costs(report_data):
    empty = classification_metrics([], np.zeros((0, 6)), report_data.class_names)
    data = replace(report_data, test=empty)
    assert data.verdict_split == "validation"
    summary = summarize(data)
    assert f"of {data.validation['n']} validation images" in summary.headline
    assert "There was no test set" in summary.caveats[0]
    assert "There was no test set" in render_report(data)


def test_summary_states_accuracy_interval_and_count(report_data):
    low, high = report_data.test["accuracy_interval"]
    assert summarize(report_data).headline == (
        f"Right on {percent(report_data.test['accuracy'])} of 150 test images; on new images like "
        f"these, expect {percent(low)} to {percent(high)}."
    )


def test_summary_says_what_shipped_and_what_transfer_was_worth(report_data):
    shipped, worth, *_ = summarize(report_data).findings
    assert shipped == report_data.shipped_because
    assert worth == "fine-tuned against from scratch: 80.0% against 41.0%, +39.0 points."
    unexplained = replace(report_data, shipped_because="")
    shipped = summarize(unexplained).findings[0]
    assert shipped == "Shipped: fine-tuned model (80.0% on the validation images)."


def test_comparison_without_a_score_shows_a_dash_and_claims_nothing(report_data):
    comparison = [{"name": "this run", "accuracy": None}, report_data.comparison[1]]
    data = replace(report_data, comparison=comparison)
    assert not any("against" in text for text in summarize(data).findings[1:])
    assert "<bdi>this run</bdi></th>\n        <td>–</td>" in render_report(data)


def test_summary_reports_a_loss_and_its_doubt(report_data):
    comparison = [
        {"name": "transfer", "accuracy": 0.7, "interval": [0.6, 0.8]},
        {"name": "from scratch", "accuracy": 0.75, "interval": [0.65, 0.85]},
    ]
    findings = summarize(replace(report_data, comparison=comparison)).findings
    assert any("-5.0 points; their intervals overlap" in finding for finding in findings)


def test_model_no_better_than_the_most_frequent_class_is_called_that():
    labels = np.array([0] * 8 + [1] * 2)
    metrics = classification_metrics(labels, np.tile([0.9, 0.1], (10, 1)), ["a", "b"])
    findings = summarize(ReportData(title="t", test=metrics)).findings
    assert "right on 80.0%: this model is not shown to be better than that." in findings[0]


def test_duplicates_that_reach_into_the_test_set_are_a_caveat(report_data):
    group = {"kind": "exact", "ids": ["a", "b"], "conflicting_labels": False}
    leaking = [{**group, "splits": ["train", "test"]}, {**group, "splits": ["train", "validation"]}]
    caveats = summarize(replace(report_data, duplicates=leaking)).caveats
    assert len(caveats) == 1
    assert caveats[0].startswith("1 group of duplicates reaches across")


def test_class_without_a_test_image_shows_dashes_not_nan():
    metrics = classification_metrics([0, 1], [[0.9, 0.1, 0], [0.2, 0.8, 0]], ["a", "b", "c"])
    data = ReportData(title="t", test=metrics)
    page = render_report(data)
    table = page[page.index('id="per-class"') :]
    row = re.search(r'title="c".*?</tr>', table, re.S)
    assert re.findall(r"<td>(.*?)</td>", row[0]) == ["0", "–", "–", "–"]
    assert not re.search(r"\bnan\b", page, re.I)
    assert "1 class has no test image" in summarize(data).caveats[0]


@pytest.mark.parametrize(("classes", "matrix"), [(2, True), (30, True), (31, False), (120, False)])
def test_confusion_matrix_gives_way_to_pairs_when_classes_are_many(classes, matrix):
    page = render_report(make_report([f"c{i}" for i in range(classes)], count=300, history=[]))
    assert ('id="confusion"' in page) == matrix
    assert 'id="confused"' in page


def test_all_set_aside_images_are_listed(page):
    listed = page[page.index('id="quarantine"') :]
    assert listed[: listed.index("</ul>")].count("<li>") == 40


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8, 1), (8, 8), (600, 300, 3), (1, 1, 3)])
def test_images_of_any_shape_become_thumbnails(shape):
    mistake = Mistake(np.zeros(shape, np.uint8), "x.png", "a", "b", 0.9)
    page = render_report(ReportData(title="t", mistakes=[mistake]))
    width, height = map(int, re.search(r'width="(\d+)" height="(\d+)"', page).groups())
    assert max(width, height) <= 256
    assert width / height == pytest.approx(shape[1] / shape[0], rel=0.02)


def test_mistakes_are_shown_surest_first():
    image = np.zeros((4, 4, 3), np.uint8)
    mistakes = [Mistake(image, f"{p}.png", "a", "b", p) for p in (0.5, 0.9, 0.7)]
    page = render_report(ReportData(title="t", mistakes=mistakes))
    assert re.findall(r'alt="([\d.]+)\.png', page) == ["0.9", "0.7", "0.5"]


def test_same_data_gives_the_same_bytes(report_data, page):
    assert render_report(report_data) == page


def test_report_is_written_quickly_and_whole(tmp_path, report_data, page):
    started = time.process_time()
    write_report(tmp_path / "report.html", report_data)
    assert time.process_time() - started < 3
    assert (tmp_path / "report.html").read_text("utf-8") == page
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_full_disk_is_a_storage_error_and_keeps_the_old_report(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"Could not write .*report.html"):
            write_report(path, ReportData(title="t"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "old"


def test_numbers_read_as_a_person_writes_them():
    assert [percent(x) for x in (0.80941, 1.0, None, float("nan"))] == ["80.9%", "100.0%", "–", "–"]
    assert [number(x) for x in (0.5234, "0.5", "", None)] == ["0.523", "0.500", "–", "–"]
    assert [scientific(x) for x in (3e-4, 1.0, 0, None)] == ["3.0e-4", "1.0e0", "0", "–"]
    times = [duration(s) for s in (0.0421, 0.997, 7.25, 59.6, 78.3, 3599.7, 7260)]
    assert times == [
        "0.042 s",
        "1.0 s",
        "7.2 s",
        "1 min 0 s",
        "1 min 18 s",
        "1 h 0 min",
        "2 h 1 min",
    ]
    assert [memory(x) for x in (1.25e9, 340e6, None)] == ["1.2 GB", "340 MB", "–"]
