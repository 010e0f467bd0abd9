"""Plots: well-formed, themed by the page, and indifferent to what names contain."""

from xml.etree import ElementTree

import matplotlib
import pytest

from tfinetune.evaluation.plots import CSS_VARIABLES, learning_curve, reliability_diagram

ROWS = [
    {"phase": phase, "accuracy": 0.5 + i / 20, "val_accuracy": 0.4 + i / 20, "loss": 1 / (i + 1)}
    for i, phase in enumerate(["head"] * 2 + ["tuning"] * 6)
]


def texts(svg):
    """The text of every text element."""
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter("text")]


def test_curve_shows_phases_and_the_probe():
    svg = learning_curve(ROWS, "accuracy", description="Accuracy", probe=0.7)
    assert {"head", "tuning", "training", "validation", "linear probe", "epoch"} <= set(texts(svg))
    assert "linear probe" not in texts(learning_curve(ROWS, "accuracy", description="", probe=None))


def test_one_phase_needs_no_boundary():
    assert "tuning" not in texts(learning_curve(ROWS[2:], "loss", description=""))


def test_drawing_follows_the_theme_of_the_page():
    svg = learning_curve(ROWS, "accuracy", description="", probe=0.7)
    assert not [color for color in CSS_VARIABLES if color in svg]
    assert {"var(--ink)", "var(--accent)", "var(--accent-2)"} <= {
        variable for variable in CSS_VARIABLES.values() if variable in svg
    }


@pytest.mark.parametrize(
    "phase", ["<script>$x_{$", "$\\frac{1$", "😀 紙", "زجاج", "a\x00b\x1b\udcff", "x" * 300, ""]
)
def test_any_phase_name_is_drawn_as_text(phase, recwarn):
    svg = learning_curve([{"phase": phase, "loss": 1.0}, ROWS[0]], "loss", description=phase[:9])
    assert "<script" not in svg
    svg.encode("utf-8")
    drawn = [text for text in texts(svg) if phase and text.startswith(phase[:1])]
    assert len(drawn) == bool(phase)
    assert all(len(text) < 30 for text in drawn)
    # Not what the garbage collector, which may run here, says of other tests' temporary folders.
    assert [str(w.message) for w in recwarn if w.category is not ResourceWarning] == []


def test_missing_values_and_numbers_as_text_are_understood():
    rows = [{"phase": "a", "loss": "1.5", "val_loss": ""}, {"phase": "a", "loss": None}]
    assert "validation" not in texts(learning_curve(rows, "loss", description=""))


def test_drawing_leaves_the_users_matplotlib_settings_alone_and_ignores_them():
    plain = learning_curve(ROWS, "loss", description="")
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 40}):
        before = dict(matplotlib.rcParams)
        assert learning_curve(ROWS, "loss", description="") == plain
        assert dict(matplotlib.rcParams) == before


def test_drawings_in_one_page_share_no_id():
    drawings = [learning_curve(ROWS, name, description="") for name in ("accuracy", "loss")]
    ids = [
        {element.get("id") for element in ElementTree.fromstring(svg).iter()} - {None}
        for svg in drawings
    ]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_reliability_diagram_of_empty_bins_is_drawn():
    empty = {"count": 0, "confidence": None, "accuracy": None}
    bins = [{"low": i / 15, "high": (i + 1) / 15, **empty} for i in range(15)]
    assert "how sure the model was" in texts(reliability_diagram(bins, description="none"))
