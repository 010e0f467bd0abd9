"""FineTuner: a backbone and a data set's classes, fitted by a strategy, evaluated and exported."""

from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from scipy.special import softmax

from tfinetune.adaptation import PlanRow, resolve, trainable_plan
from tfinetune.adaptation.rules import BatchNormPolicy, Plan, Rules, groups_of
from tfinetune.array_store import ArrayStore
from tfinetune.assembly import Assembly
from tfinetune.backbones import Backbone, load_backbone
from tfinetune.data import DataSpec, Split, Splits
from tfinetune.distribution import check_made_here, device_strategy, replicas
from tfinetune.errors import DataError, FixedSizeError, OutOfMemoryError
from tfinetune.evaluation import classification_metrics, fit_temperature
from tfinetune.evaluation.metrics import Metrics
from tfinetune.export import ParityRow, export_checked, sample_photos
from tfinetune.inference import constant_function, predict, predict_files
from tfinetune.recipe import DistributionName, PrecisionName
from tfinetune.reporting import Reporter
from tfinetune.storage import atomic_path
from tfinetune.training import (
    Checkpoint,
    FeatureCache,
    FrozenWork,
    Outcome,
    Phase,
    Segment,
    class_weights,
    run_phases,
)
from tfinetune.training.precision import choose_precision
from tfinetune.training.strategies import LPFT, Strategy


class FineTuner:
    """Fine-tune a backbone on a data set and get a plain Keras model.

    Photos go through everything here; of tables, sequences, texts and several inputs `fit`,
    `evaluate`, `probabilities` and `save` work alike, and `predict` and `export` are those of Keras
    (`tuner.model.predict`, `tuner.model.export`).

    Args:
        backbone: path of a `.h5` or `.keras` file, a `keras.applications` name, a `keras.Model`,
            or what `load_backbone` returned, which is then trained in place.
        spec: inputs and classes, as `splits.spec` gives them.
        weights: for a name or path, see `load_backbone`.
        input_range: what pixel values 0 and 255 become for the backbone; None detects it.
        dropout: rate before the last layer, in [0, 1).
        head_units: outputs of a hidden layer before it; 0 for a linear head.
        head_activation: of the hidden layer, a name that Keras knows.
        seed: of the head, dropout, order and augmentation.
        precision: that the backbone computes in while `fit` trains it: `float32`,
            `mixed_bfloat16`, `mixed_float16`, or `auto`, the fastest that is measured now. What
            `fit` leaves computes in float32.
        distribute: how `fit` shares each step out among devices, see
            `tfinetune.distribution.device_strategy`.
        cache: where outputs of frozen layers are kept; give several tuners the same one to share
            them. None takes 2 GiB of memory and up to 10 GiB in `~/.cache/tfinetune`.
        reporter: shows progress; None is silent.

    Attributes:
        precision: what was chosen, and why.
        replicas: devices that `fit` shares each batch out among.
        model: the plain `keras.Model`: image `[b, H, W, 3]`, 0..255, to probabilities.

    Raises:
        FixedSizeError: if the backbone cannot work at `spec.image_size`.
        DataError: if the backbone takes other inputs than the data set has.
        DeviceError: if training cannot be distributed so.

    Example:
        >>> import tfinetune as ft  # doctest: +SKIP
        >>> splits = ft.data.from_image_folder("photos/", image_size=224)
        >>> tuner = ft.FineTuner("base_model.h5", splits.spec)
        >>> tuner.fit(splits, ft.strategies.LPFT(epochs=10))
        >>> tuner.export("serving/1")
    """

    def __init__(
        self,
        backbone: str | Path | keras.Model | Backbone,
        spec: DataSpec,
        *,
        weights: str = "imagenet",
        input_range: tuple[float, float] | str | None = None,
        dropout: float = 0.2,
        head_units: int = 0,
        head_activation: str = "relu",
        seed: int = 0,
        precision: PrecisionName = "float32",
        distribute: DistributionName = "none",
        cache: FeatureCache | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.spec = spec
        self.seed = seed
        self.reporter = reporter or Reporter()
        self.cache = cache or FeatureCache(ArrayStore(), reporter=self.reporter)
        with device_strategy(distribute).scope():
            if not isinstance(backbone, Backbone):
                backbone = load_backbone(
                    backbone,
                    weights=weights,
                    image_size=spec.image_size,
                    input_range=input_range,
                    seed=seed,
                )
            _check_fit(backbone, spec)
            check_made_here(backbone.model)
            self.assembly = Assembly(
                backbone,
                spec.num_classes,
                dropout=dropout,
                head_units=head_units,
                head_activation=head_activation,
                seed=seed,
            )
            self.precision = choose_precision(precision, self.assembly)
            self.replicas = replicas()
        if distribute != "none" and self.replicas == 1:
            self.reporter.say(f"distribute={distribute!r} finds one device: nothing is shared out.")
        self.outcome: Outcome | None = None
        self.class_weights: dict[int, float] | None = None
        self._plan: Plan = resolve("all", self.assembly)
        self._rates: dict[str, float] = {}
        self._gate_photos: Sequence[str | Path] = sample_photos()

    @property
    def backbone(self) -> Backbone:
        """What is fine-tuned."""
        return self.assembly.backbone

    @property
    def model(self) -> keras.Model:
        """Image `[b, H, W, 3]`, 0..255, to probabilities `[b, classes]`."""
        return self.assembly.model

    @property
    def groups(self) -> list[str]:
        """Names of the layer groups from input to head."""
        return list(groups_of(self.assembly))

    def set_trainable(self, rules: Rules, *, batch_norm: BatchNormPolicy = "frozen") -> None:
        """Set which layers train, for your own `compile` and `fit` on `model`.

        Args:
            rules: see `tfinetune.adaptation.rules`; later rules win.
            batch_norm: `frozen` or `adapt`.

        Raises:
            UnknownLayerError: if a rule matches no layer.
        """
        self._plan = resolve(rules, self.assembly, batch_norm=batch_norm)
        self._plan.apply()
        self._rates = {}

    def trainable_plan(self) -> list[PlanRow]:
        """List every layer that has weights: its group, state, parameter count, and peak rate."""
        return trainable_plan(self._plan, self._rates)

    def phases(self, strategy: Strategy) -> list[Phase]:
        """List the phases of a strategy for this backbone and data set."""
        return strategy.phases(self.groups, self.spec)

    def frozen_work(self, splits: Splits, phases: Sequence[Phase], *, augment: str) -> FrozenWork:
        """Return what each phase need not do again, for looking at before training."""
        return FrozenWork(
            self.assembly,
            splits,
            phases,
            augment=augment,
            seed=self.seed,
            room=self.cache.room,
        )

    def fit(
        self,
        splits: Splits,
        strategy: Strategy | None = None,
        *,
        batch_size: int = 32,
        augment: str | None = None,
        class_weighting: str = "auto",
        checkpoint: str | Path | Checkpoint | None = None,
        on_epoch: Callable[[list[dict]], None] = lambda history: None,
        calibrate: bool = True,
    ) -> Outcome:
        """Run a strategy, keep the best candidate, and calibrate it on the validation split.

        Args:
            splits: what to learn from.
            strategy: LP-FT where not given.
            batch_size: photos a step.
            augment: policy for the training photos. Default: `light`; `none` for what is no photo.
            class_weighting: `auto`, `always` or `never`, see `training.class_weights`.
            checkpoint: file to keep the state in after every epoch, and to continue from.
            on_epoch: told the whole history after every epoch.
            calibrate: whether to fit the temperature, see `calibrate`.

        Returns:
            Candidates, history and times; `model` then holds the candidate that shipped.

        Raises:
            OutOfMemoryError: with advice, if memory ran out.
            DataError: if a photo that does not fit into memory vanished meanwhile.
            TrainingError: if training diverged.
        """
        strategy = strategy or LPFT()
        if augment is None:
            augment = "light" if self.spec.image_size else "none"
        splits.train.policy(augment)  # one that cannot be had is refused before anything slow
        self._gate_photos = (splits.validation or splits.test or splits.train).paths
        self.class_weights = class_weights(splits.train, mode=class_weighting)
        if self.class_weights:
            self.reporter.say(
                "The largest class has over 3 times the smallest's photos: the loss weighs every "
                "class the same."
                if class_weighting == "auto"
                else "The loss weighs every class the same."
            )
        if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
            checkpoint = Checkpoint(checkpoint)
        phases = self.phases(strategy)
        try:
            self.outcome = run_phases(
                self.assembly,
                splits,
                phases=phases,
                batch_size=batch_size,
                augment=augment,
                seed=self.seed,
                precision=self.precision.name,
                class_weights=self.class_weights,
                checkpoint=checkpoint,
                cache=self.cache,
                reporter=self.reporter,
                on_epoch=on_epoch,
            )
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            size = self.spec.image_size
            raise OutOfMemoryError(
                f"Memory ran out while training{f' at {_size(size)} pixels' if size else ''} with "
                f"--batch-size {batch_size}. Try half the batch size"
                f"{', or a smaller --image-size' if size else ''}."
            ) from error
        except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError) as error:
            raise DataError(
                "A photo could not be read while training; it was sound when the folder was read. "
                f"{' '.join(error.message.split())[:300]}. Restore it and resume."
            ) from error
        self._plan = phases[-1].plan(self.assembly)
        self._plan.apply()
        self._rates = phases[-1].rates(self.groups)
        if calibrate and splits.validation is not None:
            self.calibrate(splits.validation)
        return self.outcome

    def calibrate(self, split: Split) -> float:
        """Fit the temperature on a split and build it into `model`.

        Args:
            split: held out from training. Without a single mistake in it nothing shows that the
                model is too sure, and the temperature stays 1.

        Returns:
            The temperature.
        """
        logits = self.logits(split)
        has_mistakes = (logits.argmax(axis=1) != split.labels).any()
        temperature = fit_temperature(logits, split.labels) if has_mistakes else 1.0
        self.assembly.set_temperature(temperature)
        return temperature

    def logits(self, split: Split) -> np.ndarray:
        """Return logits `[n, classes]` in the split's own order, without the temperature."""
        backbone = [Segment(self.assembly.features_model)]
        if self.cache.holds(backbone, split):
            head = keras.Model(
                self.assembly.features_model.output, self.assembly.logits_model.output
            )
            return constant_function(head)(*self.cache.features(backbone, split)).numpy()
        function = constant_function(self.assembly.logits_model)
        with self.reporter.bar(f"predicting {split.name}") as advance:
            batches = split.dataset(64, epoch=0)
            return predict(function, batches, total=len(split), advance=advance)

    def calibrated(self, logits: np.ndarray) -> np.ndarray:
        """Return the probabilities that `model` gives for these logits."""
        return softmax(logits / self.assembly.temperature, axis=1)

    def probabilities(self, split: Split) -> np.ndarray:
        """Return calibrated probabilities `[n, classes]` in the split's own order."""
        return self.calibrated(self.logits(split))

    def evaluate(self, split: Split) -> Metrics:
        """Return the metrics of `evaluation.classification_metrics` on a split."""
        probabilities = self.probabilities(split)
        return classification_metrics(split.labels, probabilities, self.spec.class_names)

    def predict(self, files: Sequence[str | Path]) -> tuple[np.ndarray, dict[int, str]]:
        """Classify image files.

        Raises:
            DataError: if there is no file, or the model takes no image.

        Returns:
            Probabilities `[n, classes]` (zeros where a file cannot be read) and the reason for
            each position that could not.
        """
        self._check_takes_image("model.predict(arrays)")
        return predict_files(self.model, files, aspect=self.spec.aspect, reporter=self.reporter)

    def export(
        self, path: str | Path, *, photos: Sequence[str | Path] | None = None
    ) -> list[ParityRow]:
        """Write a SavedModel folder that was checked to predict what `model` predicts.

        Args:
            path: folder to write, such as `serving/1`; it appears complete or not at all.
            photos: real files for the parity gate; without them, those that `fit` held out, or
                scikit-learn's two sample photos.

        Raises:
            ParityError: if the SavedModel differs by more than 1e-4; nothing is kept then.
            DataError: if the model takes no image.
        """
        self._check_takes_image("model.export(path)")
        return export_checked(
            self.model,
            path,
            class_names=self.spec.class_names,
            aspect=self.spec.aspect,
            photos=photos or self._gate_photos or sample_photos(),
        )

    def _check_takes_image(self, instead: str) -> None:
        if self.spec.image_size is None:
            raise DataError(f"This model takes no image files. Use Keras's own: tuner.{instead}.")

    def save(self, path: str | Path) -> None:
        """Write `model` as `.keras`, uncompiled: it loads where tfinetune is not installed."""
        # The same layers in a new model: you may have compiled `model` with an optimizer of ours.
        uncompiled = keras.Model(self.model.input, self.model.output, name=self.model.name)
        with atomic_path(path) as temporary:
            uncompiled.save(temporary)


def _check_fit(backbone: Backbone, spec: DataSpec) -> None:
    """Raise what does not fit between a backbone and a data set."""
    if spec.image_size:
        if backbone.image_size != tuple(spec.image_size):
            raise FixedSizeError(
                f"The backbone works at {_size(backbone.image_size)} pixels only and the photos "
                f"were prepared at {_size(spec.image_size)}. Read them with "
                f"image_size={backbone.image_size}."
            )
        return
    taken = {tensor.name: tuple(tensor.shape[1:]) for tensor in backbone.model.inputs}
    given = {name: tuple(entry.shape) for name, entry in spec.inputs.items()}
    if len(taken) == len(given) == 1:  # then its name does not matter
        given = dict(zip(taken, given.values(), strict=True))
    if taken.keys() != given.keys() or not all(
        _shapes_agree(shape, given[name]) for name, shape in taken.items()
    ):
        raise DataError(
            f"The backbone takes {_inputs_text(taken)} per example; the data set has "
            f"{_inputs_text(given)}. Rename or reshape the arrays of ft.data.from_arrays."
        )


def _shapes_agree(taken: tuple[int | None, ...], given: tuple[int | None, ...]) -> bool:
    return len(taken) == len(given) and all(
        None in (a, b) or a == b for a, b in zip(taken, given, strict=True)
    )


def _inputs_text(shapes: dict[str, tuple[int | None, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}".strip() for name, shape in shapes.items())


def _size(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"
