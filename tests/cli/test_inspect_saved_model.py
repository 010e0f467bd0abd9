"""`tfinetune inspect` on a SavedModel: the choices, then the facts."""

import json

from saved_models import save_tensorflow_1


def test_inspect_lists_the_choices_and_takes_them(tmp_path, here):
    save_tensorflow_1(tmp_path / "model")
    done = here("inspect", tmp_path / "model")
    assert done.returncode == 1
    words = " ".join(done.stderr.split())
    assert "outputs: sum: float32 [any, 3]; y: float32 [any, 3]" in words
    chosen = ("--features", "y", "--endpoint", "serving_default")
    facts = json.loads(here("inspect", tmp_path / "model", *chosen, "--json").stdout)
    assert (facts["kind"], facts["output_shape"]) == ("saved_model", [3])
    assert "unknown" in here("inspect", tmp_path / "model", *chosen).stdout
