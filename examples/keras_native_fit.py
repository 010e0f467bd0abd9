"""The pieces inside your own `compile` and `fit`: plain tf.data, a plain Keras model, callbacks.

python examples/keras_native_fit.py PHOTOS BACKBONE
"""

import sys

import keras

import tfinetune as ft


def main(photos: str, backbone: str) -> float:
    """Return the best validation accuracy."""
    base = ft.load_backbone(backbone)
    splits = ft.data.from_image_folder(photos, image_size=base.image_size)
    tuner = ft.FineTuner(base, splits.spec)

    # A rule instead of a loop over layers; BatchNorm stays in inference mode.
    tuner.set_trainable(["all", "!stem"])

    model = tuner.model  # a functional keras.Model with layers `logits` and `probabilities`
    model.compile(
        optimizer=ft.optimizers.AdamW(1e-2, layer_decay=0.75, assembly=tuner.assembly),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    history = model.fit(
        # Every epoch another order and other views: plain tf.data, deterministic under the seed.
        splits.train.dataset(16, shuffle=True, augment="light", seed=0),
        validation_data=splits.validation.dataset(16),
        epochs=8,
        callbacks=[
            ft.callbacks.FrozenGuard(),
            keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True),
        ],
        shuffle=False,  # the data set shuffles
        verbose=0,
    )
    return max(history.history["val_accuracy"])


if __name__ == "__main__":
    print(f"validation accuracy {main(*sys.argv[1:]):.1%}")
