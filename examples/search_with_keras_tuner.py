"""A KerasTuner script of your own: any of its tuners over fine-tuning.

python examples/search_with_keras_tuner.py PHOTOS BACKBONE OUTPUT
"""

import sys

import keras_tuner as kt

import tfinetune as ft


def main(photos: str, backbone: str, output: str, max_epochs: int = 10) -> float:
    """Return the test accuracy of the best model."""
    image_size = ft.load_backbone(backbone).image_size
    splits = ft.data.from_image_folder(photos, image_size=image_size)
    space = ft.search.Space.default().replace(
        strategy=["head", "full"],
        head_units=[0, 64],
        optimizer=["adamw", "lion"],
        learning_rate={"low": 1e-3, "high": 3e-2, "log": True},
        batch_size=16,
    )
    recipe = ft.Recipe(data=str(photos), strategy_parameters={"epochs": max_epochs})
    tuner = kt.Hyperband(
        ft.search.HyperFineTune(backbone, splits, space=space, recipe=recipe),
        objective=kt.Objective("val_accuracy", "max"),
        max_epochs=max_epochs,
        directory=output,
        project_name="search",
        seed=1,
    )
    tuner.search(verbose=0)

    # A plain Keras model, images of 0..255 to probabilities; and what would train it again.
    model = tuner.get_best_models()[0]
    print(tuner.hypermodel.recipe(tuner.get_best_hyperparameters()[0]).to_yaml())
    return model.evaluate(splits.test.dataset(32), verbose=0, return_dict=True)["accuracy"]


if __name__ == "__main__":
    print(f"accuracy {main(*sys.argv[1:]):.1%} on photos never seen")
