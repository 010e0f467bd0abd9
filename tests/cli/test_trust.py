"""Trust is what the user says in a command, each time; no file can say it for them."""

import pytest
import tensorflow as tf

from tfinetune import workflow
from tfinetune.backbones import load_backbone
from tfinetune.errors import RecipeError, UnsafeModelError
from tfinetune.recipe import Recipe

SIZE = 16


class Reading(tf.Module):
    """An image model that reads a file whenever it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.random.stateless_normal([3, 6], [0, 0]), name="kernel")

    @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], name="images")])
    def __call__(self, images):
        nothing = tf.cast(tf.strings.length(tf.io.read_file("/dev/null")), "float32")
        return tf.reduce_mean(images, [1, 2]) @ self.kernel + nothing


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    path = tmp_path_factory.mktemp("reading") / "model"
    module = Reading()
    tf.saved_model.save(module, str(path), signatures=module.__call__)
    return path


@pytest.mark.slow
def test_a_run_on_a_trusted_saved_model_opens_again_for_who_trusts_it(
    reading, photo_folder, tmp_path, here
):
    photos, run = photo_folder(), tmp_path / "run"
    train = ("train", photos, "--backbone", reading, "--input-range", "0,1",
             "--strategy", "linear_probe", "--output", run)  # fmt: skip
    refused = here(*train)
    assert refused.returncode == 1
    assert "ReadFile" in refused.stderr and "(--trust)" in refused.stderr
    trained = here(*train, "--trust")
    assert trained.returncode == 0, trained.stderr
    assert "Warning: with --trust a SavedModel may read" in " ".join(trained.stderr.split())
    assert workflow.open_run(run).recipe.trust

    for command in ("predict", "evaluate"):
        assert "ReadFile" in here(command, run, photos).stderr
        assert here(command, run, photos, "--trust", "--json").returncode == 0
    assert here("inspect", run, "--trust").returncode == 0
    assert "ReadFile" in here("export", run, "--output", tmp_path / "export").stderr
    with pytest.raises(UnsafeModelError, match="ReadFile"):
        load_backbone(run)

    again = ("train", "--recipe", run / "recipe.yaml", "--output", tmp_path / "again")
    assert "A file cannot decide that" in " ".join(here(*again).stderr.split())
    tuner, _ = workflow.open_run(run, trust=True).finetuner()
    assert tuner.backbone.provenance.kind == "saved_model"


@pytest.mark.slow
def test_a_search_over_a_trusted_saved_model_is_trusted_in_its_workers_and_resumed_by_who_trusts(
    reading, photo_folder, tmp_path, here
):
    found, space = tmp_path / "found", tmp_path / "space.yaml"
    space.write_text("dropout: [0.2, 0.5]")
    command = ("search", photo_folder(), "--backbone", reading, "--input-range", "0,1",
               "--strategy", "head", "--epochs", 1, "--space", space, "--trials", 2,
               "--workers", 1, "--chief", "127.0.0.1:0")  # fmt: skip
    refused = here(*command, "--output", tmp_path / "refused")
    assert refused.returncode == 1 and "ReadFile" in refused.stderr
    searched = here(*command, "--output", found, "--trust")
    assert searched.returncode == 0, searched.stderr
    assert workflow.open_run(found / "best").recipe.trust
    resume = ("search", "--resume", "--output", found)
    assert "A file cannot decide that" in " ".join(here(*resume).stderr.split())
    assert here(*resume, "--trust").returncode == 0


def test_a_recipe_that_says_trust_grants_none(reading, photo_folder, tmp_path):
    recipe = Recipe(data=str(photo_folder()), backbone=str(reading), trust=True, input_range=(0, 1))
    recipe.save(tmp_path / "strangers.yaml")
    for wanted in (recipe, Recipe.load(tmp_path / "strangers.yaml")):
        with pytest.raises(RecipeError, match=r"add trust=True \(--trust\)"):
            workflow.train(wanted, tmp_path / "run")
        with pytest.raises(RecipeError, match="A file cannot decide that"):
            workflow.plan(wanted)
    assert workflow.plan(recipe, trust=True)["photos"] == 36
