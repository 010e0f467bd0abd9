"""Fine-tuning as a KerasTuner hypermodel, for people who have a KerasTuner script of their own."""

from pathlib import Path
from typing import Any

import keras
import keras_tuner as kt
from keras_tuner.src.engine.tuner_utils import TunerCallback

from tfinetune.adaptation import Plan
from tfinetune.data import Splits, get_policy
from tfinetune.errors import RecipeError, SearchError
from tfinetune.finetuner import FineTuner
from tfinetune.recipe import Recipe
from tfinetune.reporting import Reporter
from tfinetune.search.space import Space
from tfinetune.training import FeatureCache, Phase, class_weights, run_phases
from tfinetune.training.objectives import cross_entropy
from tfinetune.training.runner import build_optimizer
from tfinetune.training.strategies import build_strategy
from tfinetune.workflow.prepare import cut, open_backbone, tuner_options

_SHARED = ("precision", "image_size", "aspect")
"""Fields of recipes that are the same in all trials here."""


class HyperFineTune(kt.HyperModel):
    """A space of fine-tuned models: plain, compiled, image 0..255 to probabilities.

    Any tuner of KerasTuner searches it, and `tuner.search()` needs no arguments: `fit` brings the
    photos, class weights, rate schedule and number of epochs. `ft.search.run` does more and is
    faster: it shares the work of frozen layers between trials.

    The rate falls to zero at the last epoch of the recipe: give Hyperband the same `max_epochs`. A
    trial that it promotes goes on from the weights and the optimizer of its parent's best epoch,
    with the rates, the order and the augmentation of the epochs that follow.

    With `executions_per_trial=2` a trial trains with the seed of the recipe and then with the next:
    other weights of what is not pretrained, another order and augmentation of the photos.

    Args:
        backbone: a file or the name of an architecture; every trial opens it anew.
        splits: photos to train on and to compare trials by.
        space: what varies; None takes `Space.default(recipe)`.
        recipe: what does not; its `data`, `image_size`, `aspect`, `validation` and `test` count for
            nothing, for the splits have theirs.
        cache: outputs of the frozen backbone that a closed-form head is fitted on.

    Raises:
        SearchError: if the space has no valid combination or varies what all trials here share, or
            no validation photos are held out.
        RecipeError: if the recipe asks for another precision than float32.

    Example:
        >>> import keras_tuner as kt, tfinetune as ft
        >>> splits = ft.data.from_image_folder("photos/")  # doctest: +SKIP
        >>> tuner = kt.Hyperband(  # doctest: +SKIP
        ...     ft.search.HyperFineTune("base_model.h5", splits),
        ...     objective=kt.Objective("val_accuracy", "max"),
        ...     max_epochs=10,
        ... )
        >>> tuner.search()  # doctest: +SKIP
        >>> model = tuner.get_best_models()[0]  # doctest: +SKIP
    """

    def __init__(
        self,
        backbone: str | Path,
        splits: Splits,
        *,
        space: Space | None = None,
        recipe: Recipe | None = None,
        cache: FeatureCache | None = None,
    ) -> None:
        super().__init__()
        if splits.validation is None:
            raise SearchError(
                "A search compares its trials on validation photos, and none are held out. Pass "
                "validation=0.15 to ft.data.from_image_folder."
            )
        recipe = recipe or Recipe(data="given as splits")
        if recipe.precision != "float32":
            raise RecipeError(
                f"HyperFineTune trains in float32 (precision {recipe.precision!r}); "
                "`ft.search.run` takes others."
            )
        spec = splits.spec
        self._base = recipe.replace(
            backbone=str(backbone), image_size=spec.image_size, aspect=spec.aspect
        )
        self._space = space or Space.default(self._base)
        if shared := [name for name in _SHARED if name in self._space.domains]:
            raise SearchError(
                "HyperFineTune trains every trial in float32 on the photos as the splits have "
                f"them. Leave {', '.join(shared)} out of its space, or use `ft.search.run`."
            )
        self._parameters = self._space.hyperparameters(self._base)
        self._splits = splits
        self._cache = cache or FeatureCache()
        self._policy = keras.config.dtype_policy()
        self._plan: Plan | None = None
        self._built: kt.HyperParameters | None = None
        self._execution = 0

    def recipe(self, hp: kt.HyperParameters) -> Recipe:
        """Return the recipe that hyperparameters stand for, as `ft.train` takes it."""
        self.declare_hyperparameters(hp)
        return self._space.recipe(hp.values, self._base)

    def declare_hyperparameters(self, hp: kt.HyperParameters) -> None:
        """Add the space to KerasTuner's hyperparameters."""
        hp.merge(self._parameters, overwrite=False)

    def build(self, hp: kt.HyperParameters) -> keras.Model:
        """Return a compiled model; a head that is fitted in closed form is fitted already."""
        keras.config.set_dtype_policy(self._policy)  # KerasTuner resets it before every trial
        if hp is not self._built:  # a trial has the same in all its executions
            self._built, self._execution = hp, 0
        recipe = self._seeded(hp)
        backbone = open_backbone(recipe, recipe.backbone)
        # Executions share a checkpoint, so all are as deep as the first.
        backbone = cut(self.recipe(hp), backbone, self._splits, Reporter(), cache=self._cache)
        options = {**tuner_options(recipe), "cache": self._cache}
        tuner = FineTuner(backbone, self._splits.spec, **options)
        *convex, phase = self._phases(recipe, tuner)
        if convex:
            run_phases(
                tuner.assembly,
                self._splits,
                phases=convex,
                augment=recipe.augmentation,
                seed=recipe.seed,
                class_weights=class_weights(self._splits.train, mode=recipe.class_weights),
                cache=self._cache,
            )
        self._plan = phase.plan(tuner.assembly)
        self._plan.apply()
        steps = self._splits.train.steps(recipe.batch_size) * phase.epochs
        tuner.model.compile(
            optimizer=build_optimizer(phase, tuner.assembly, steps=steps),
            loss=cross_entropy(phase.label_smoothing, from_logits=False),
            metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
            jit_compile=False,
        )
        # Built, or KerasTuner would give a promoted trial weights without the optimizer's slots.
        tuner.model.optimizer.build(tuner.model.trainable_variables)
        return tuner.model

    def fit(
        self, hp: kt.HyperParameters, model: keras.Model, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """Train the model that was built last; arguments of `search` come before those of here."""
        recipe, splits = self._seeded(hp), self._splits
        strategy = build_strategy(recipe.strategy, recipe.strategy_parameters)
        phase = strategy.phases(("stem", "head"), splits.spec)[-1]
        options = {
            "initial_epoch": 0,
            "epochs": phase.epochs,
            "validation_data": splits.validation.dataset(recipe.batch_size),
            "class_weight": class_weights(splits.train, mode=recipe.class_weights),
            "shuffle": False,  # the data set does
            "verbose": 0,
            **kwargs,
        }
        first, steps = options["initial_epoch"], splits.train.steps(recipe.batch_size)
        if not args and "x" not in kwargs:
            options["x"] = splits.train.dataset(
                recipe.batch_size,
                epoch=first,
                epochs=options["epochs"] - first,
                shuffle=True,
                augment=recipe.augmentation,
                views=phase.views if isinstance(phase.views, int) else None,
                seed=recipe.seed,
            )
            options.setdefault("steps_per_epoch", steps)
        # A promoted trial has the count of its parent's best epoch, which need not be the last.
        model.optimizer.iterations.assign(first * steps)
        with self._plan.frozen_layers_deterministic():
            history = model.fit(*args, **options)
        # Counted in a circle: who builds the best model again after the search gets the first.
        self._execution = (self._execution + 1) % _executions(options.get("callbacks"))
        return history

    def _seeded(self, hp: kt.HyperParameters) -> Recipe:
        """Return a trial's recipe with the seed of the execution that was built last."""
        recipe = self.recipe(hp)
        return recipe.replace(seed=recipe.seed + self._execution)

    def _phases(self, recipe: Recipe, tuner: FineTuner) -> list[Phase]:
        if recipe.distribute != "none":
            raise RecipeError(
                f"HyperFineTune trains on one device (distribute {recipe.distribute!r}); "
                "`ft.search.run` distributes."
            )
        if get_policy(recipe.augmentation).mixes:
            raise RecipeError(
                f"HyperFineTune mixes no photos (augmentation {recipe.augmentation!r}); "
                "`ft.search.run` does."
            )
        phases = tuner.phases(build_strategy(recipe.strategy, recipe.strategy_parameters))
        if [phase.solver for phase in phases[:-1]].count("sgd") or phases[-1].solver != "sgd":
            raise RecipeError(
                f"The strategy {recipe.strategy} is not one `fit` of Keras. HyperFineTune takes "
                "lpft, head and full; `ft.search.run` takes all."
            )
        return phases


def _executions(callbacks: Any) -> int:
    """Return how often a tuner trains each trial; 1 where it is no tuner that trains."""
    tuners = [
        each.tuner for each in keras.tree.flatten(callbacks) if isinstance(each, TunerCallback)
    ]
    return tuners[0].executions_per_trial if tuners else 1
