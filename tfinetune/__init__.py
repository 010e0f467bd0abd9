"""tfinetune: transfer learning for Keras.

Photos and a pretrained model in; a fine-tuned, evaluated, servable plain Keras model out.

    import tfinetune as ft

    splits = ft.data.from_image_folder("photos/", image_size=224)
    tuner = ft.FineTuner("base_model.h5", splits.spec)
    tuner.fit(splits, ft.strategies.LPFT(epochs=10))
    tuner.export("serving/1")

Public names load on first use, so that `import tfinetune` needs no TensorFlow (PEP 562).
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "data": "tfinetune.data",
    "distribution": "tfinetune.distribution",
    "errors": "tfinetune.errors",
    "evaluation": "tfinetune.evaluation",
    "optimizers": "tfinetune.adaptation",
    "search": "tfinetune.search",
    "strategies": "tfinetune.training.strategies",
    "callbacks": "tfinetune.training.callbacks",
}
_NAMES = {
    "ArrayStore": "tfinetune.array_store",
    "FeatureCache": "tfinetune.training.feature_cache",
    "FineTuner": "tfinetune.finetuner",
    "Phase": "tfinetune.training.phase",
    "Recipe": "tfinetune.recipe",
    "Reporter": "tfinetune.reporting",
    "Run": "tfinetune.workflow",
    "choose_depth": "tfinetune.training.depth",
    "load_backbone": "tfinetune.backbones",
    "open_run": "tfinetune.workflow",
    "train": "tfinetune.workflow",
}
__all__ = sorted([*_MODULES, *_NAMES])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'tfinetune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
