"""Execute phases: the only place that compiles and fits.

A run is a sequence of epochs; after each one the whole state is on disk, and order, augmentation
and rates depend on nothing but the seed and the epoch's number. So a run that was killed anywhere
continues to the very same weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import keras
import numpy as np
from keras import ops
from sklearn.metrics import accuracy_score, log_loss

from tfinetune.adaptation import OPTIMIZERS, Plan
from tfinetune.assembly import Assembly
from tfinetune.data import Split, Splits, get_policy
from tfinetune.distribution import check_can_share, is_distributed, share_out
from tfinetune.errors import StorageError, TrainablePlanError, TrainingError
from tfinetune.reporting import Reporter
from tfinetune.training.checkpoint import FEATURES, Candidate, Checkpoint, TrainingState
from tfinetune.training.class_weights import weigh
from tfinetune.training.feature_cache import FeatureCache, Segment, probe_views
from tfinetune.training.frozen_work import FrozenWork, Stage
from tfinetune.training.logistic import fit_logistic_head
from tfinetune.training.objectives import cross_entropy, metrics
from tfinetune.training.phase import Phase, check_head
from tfinetune.training.precision import computing_in
from tfinetune.training.recorder import Recorder
from tfinetune.training.resident import ResidentEpochs, is_resident


@dataclass(frozen=True)
class Outcome:
    """What a sequence of phases left.

    Attributes:
        shipped: the candidate whose weights the model now has.
        candidates: what each phase offered, in order.
        history: a row for every epoch: phase, epoch, loss, accuracy, val_loss, val_accuracy,
            learning_rate, seconds.
        seconds: see `TrainingState`.
    """

    shipped: Candidate
    candidates: list[Candidate]
    history: list[dict]
    seconds: dict[str, float]


@dataclass
class Runner:
    """Runs phases on one assembly and one data set; `run_phases` is the usual way in.

    Without `cache` every layer runs in every step, frozen ones too.
    """

    assembly: Assembly
    splits: Splits
    batch_size: int = 32
    augment: str = "light"
    seed: int = 0
    precision: str = "float32"
    class_weights: dict[int, float] | None = None
    checkpoint: Checkpoint | None = None
    cache: FeatureCache | None = None
    reporter: Reporter = field(default_factory=Reporter)
    on_epoch: Callable[[list[dict]], None] = lambda history: None

    def run(self, phases: Sequence[Phase]) -> Outcome:
        """Run the phases that are not finished yet, then load the candidate that ships."""
        check_head(phases, hidden=len(self.assembly.head_layers) > 1)
        model = self.assembly.logits_model
        batch_norm = {phase.batch_norm for phase in phases if phase.solver == "sgd"}
        with model.distribute_strategy.scope():
            check_can_share(model, batch_norm=batch_norm, precision=self.precision)
            with computing_in(self.precision, self.assembly.backbone.model):
                return self._run(phases)

    def _run(self, phases: Sequence[Phase]) -> Outcome:
        _seed_generators(self.assembly, self.seed)
        state = (self.checkpoint.load() if self.checkpoint else None) or TrainingState()
        if state.weights:
            self.assembly.set_weights(state.weights)
        else:
            state.weights = self.assembly.get_weights()
        work = FrozenWork(
            self.assembly,
            self.splits,
            phases,
            augment=self.augment,
            seed=self.seed,
            room=self.cache.room if self.cache else 0,
        )
        for index in range(state.phase, len(phases)):
            phase = phases[index]
            if phase.solver == "logistic":
                candidate = self._solve_logistic(phase, state)
            else:
                first_epoch = _epochs_before(phases, index)
                candidate = self._train(phase, state, work, first_epoch=first_epoch)
            state.candidates.append(candidate)
            state.weights = candidate.weights
            state.phase, state.epoch, state.best, state.optimizer = index + 1, 0, None, []
            self._save(state)
        shipped = choose(state.candidates)
        self.assembly.set_weights(shipped.weights)
        return Outcome(shipped, state.candidates, state.history, state.seconds)

    def _solve_logistic(self, phase: Phase, state: TrainingState) -> Candidate:
        phase.plan(self.assembly).apply()
        cache = self.cache or FeatureCache(reporter=self.reporter)
        backbone = [Segment(self.assembly.features_model)]
        train, validation = self.splits.train, self.splits.validation
        with state.booking(FEATURES):
            views = probe_views(phase.policy(self.augment))
            features = [cache.features(backbone, train, view)[0] for view in views]
            held_out = validation and cache.features(backbone, validation)[0]
        accuracy = loss = None
        with state.booking(phase.name):
            kernel, bias, _ = fit_logistic_head(
                features,
                train.labels,
                class_weights=self.class_weights,
                seed=self.seed,
            )
            self.assembly.logits_layer.set_weights([kernel, bias])
            if validation is not None:
                accuracy, loss = accuracy_and_loss(held_out @ kernel + bias, validation)
        return Candidate(phase.name, self.assembly.get_weights(), accuracy, loss)

    def _train(
        self, phase: Phase, state: TrainingState, work: FrozenWork, *, first_epoch: int
    ) -> Candidate:
        stage = self._stage(phase, state, work)
        model = stage.model
        steps = stage.train.steps(self.batch_size) * phase.epochs
        plan = compile_for(
            phase,
            self.assembly,
            model=model,
            steps=steps,
            precision=self.precision,
            soft_labels=get_policy(stage.augment).mixes,
        )
        if state.optimizer:
            for variable, value in zip(model.optimizer.variables, state.optimizer, strict=True):
                variable.assign(value)
        if state.epoch < phase.epochs:  # else it was killed between its end and the next phase
            with plan.frozen_layers_deterministic(), self.reporter.bar(phase.name) as advance:
                recorder = Recorder(
                    phase,
                    state,
                    variables=self.assembly.logits_model.variables,
                    fitted=model.variables,
                    steps=steps,
                    advance=advance,
                    save=self._save,
                    say=self.reporter.say,
                )
                self._fit(stage, phase, recorder, done=state.epoch, first_epoch=first_epoch)
        best = state.best or self._last_epoch(phase, state)
        self.assembly.set_weights(best.weights)
        return best

    def _fit(
        self, stage: Stage, phase: Phase, recorder: Recorder, *, done: int, first_epoch: int
    ) -> None:
        """Train the epochs of a phase behind the `done` ones; `first_epoch` is its first."""
        train, validation, class_weights = stage.train, stage.validation, self.class_weights
        if is_resident(train) and not is_distributed():
            epochs = ResidentEpochs(
                stage.model,
                train,
                validation,
                batch_size=self.batch_size,
                seed=self.seed,
                class_weights=class_weights,
            )
            epochs.fit(range(done, phase.epochs), first_epoch=first_epoch, callback=recorder)
            return
        batches = train.dataset(
            self.batch_size,
            epoch=first_epoch + done,
            epochs=phase.epochs - done,
            shuffle=True,
            augment=stage.augment,
            views=stage.views,
            seed=self.seed,
        )
        held_out = validation and validation.dataset(self.batch_size, epoch=0)
        mixes = get_policy(stage.augment).mixes
        if mixes or is_distributed():
            batches, class_weights = weigh(batches, class_weights), None
        if mixes:
            classes = train.num_classes
            held_out = held_out and held_out.map(
                lambda images, labels: (images, ops.one_hot(labels, classes))
            )
        if is_distributed():
            batches = share_out(batches, batch_size=self.batch_size)
            held_out = held_out and share_out(held_out, batch_size=self.batch_size)
        stage.model.fit(
            batches,
            initial_epoch=done,
            epochs=phase.epochs,
            steps_per_epoch=train.steps(self.batch_size),
            validation_data=held_out,
            class_weight=class_weights,
            shuffle=False,  # the data set has its own order
            callbacks=[recorder],
            verbose=0,
        )

    def _stage(self, phase: Phase, state: TrainingState, work: FrozenWork) -> Stage:
        index = work.phases.index(phase)
        if self.cache is None or work.cuts[index] is None:
            return work.plain(index)
        self.reporter.say(work.describe(index))
        try:
            with state.booking(FEATURES):
                return work.stage(index, self.cache)
        except StorageError as error:
            self.reporter.say(f"{phase.name}: every layer runs in every step. {error}")
            return work.plain(index)

    def _last_epoch(self, phase: Phase, state: TrainingState) -> Candidate:
        # Without validation nothing is selected: the last epoch is what the phase offers.
        return Candidate(phase.name, self.assembly.get_weights(), epoch=state.epoch)

    def _save(self, state: TrainingState) -> None:
        if self.checkpoint is not None:
            self.checkpoint.save(state)
        self.on_epoch(state.history)


def run_phases(
    assembly: Assembly, splits: Splits, *, phases: Sequence[Phase], **options: object
) -> Outcome:
    """Run phases on an assembly, shipping the best candidate by validation score.

    Args:
        assembly: trained in place.
        splits: `train` is needed; without `validation` nothing is selected and the last phase's
            last epoch ships.
        phases: what to do, as a strategy lists it.
        **options: fields of `Runner`.
    """
    return Runner(assembly, splits, **options).run(phases)


def accuracy_and_loss(logits: np.ndarray, split: Split) -> tuple[float, float]:
    """Return what a candidate is compared by: accuracy and cross-entropy of logits `[n, classes]`.

    Args:
        logits: in the split's own order.
        split: whose labels they are held against.
    """
    probabilities = ops.convert_to_numpy(ops.softmax(logits))
    labels = np.arange(split.num_classes)
    accuracy = accuracy_score(split.labels, probabilities.argmax(axis=1))
    return float(accuracy), float(log_loss(split.labels, probabilities, labels=labels))


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """Return the candidate that ships: the best by validation, else the last usable one.

    Raises:
        TrainingError: if every candidate has weights that are not finite.
    """
    usable = [c for c in candidates if all(np.isfinite(w).all() for w in c.weights)]
    if not usable:
        raise TrainingError(
            "Training diverged: the weights are not finite numbers. Lower the learning rate "
            "(--set learning_rate=1e-4)."
        )
    measured = [c for c in usable if c.accuracy is not None]
    return max(measured, key=lambda candidate: candidate.score) if measured else usable[-1]


def build_optimizer(
    phase: Phase, assembly: Assembly, *, steps: int, precision: str = "float32"
) -> keras.optimizers.Optimizer:
    """Return the phase's optimizer with its schedule and rates per group.

    Args:
        phase: rates, decay, warm-up and clipping.
        assembly: gives every variable its group.
        steps: of the whole phase.
        precision: `mixed_float16` needs its loss scaled, for small gradients vanish in it.
    """
    warmup = round(phase.warmup * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else phase.learning_rate,
        decay_steps=max(1, steps - warmup),
        warmup_target=phase.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    optimizer = OPTIMIZERS[phase.optimizer](
        schedule,
        layer_decay=phase.layer_decay,
        assembly=assembly,
        weight_decay=phase.weight_decay or None,
        global_clipnorm=phase.clip_norm,
    )
    if precision == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def _epochs_before(phases: Sequence[Phase], index: int) -> int:
    # Phases go on counting, so that no two epochs of a run see the same order and views.
    return sum(phase.epochs for phase in phases[:index])


def _seed_generators(assembly: Assembly, seed: int) -> None:
    """Give every random layer a state of its own that depends on the seed alone."""
    states = [v for v in assembly.model.variables if v.name == "seed_generator_state"]
    for index, variable in enumerate(states):
        variable.assign(np.array([seed, index + 1], dtype=variable.dtype))


def compile_for(
    phase: Phase,
    assembly: Assembly,
    *,
    model: keras.Model,
    steps: int,
    precision: str = "float32",
    soft_labels: bool = False,
) -> Plan:
    """Set the trainable flags of a phase and compile the model that it fits.

    Args:
        phase: what trains and how.
        assembly: whose layers train.
        model: `assembly.logits_model` or a suffix of it; compiled in place, its optimizer already
            built, with the same variables for either.
        steps: of the whole phase.
        precision: see `build_optimizer`.
        soft_labels: whether labels are shares of the classes instead of one class.

    Returns:
        The plan that was applied and checked.

    Raises:
        TrainablePlanError: if `model` lacks a variable that trains.
    """
    plan = phase.plan(assembly)
    plan.apply()
    behind = {id(variable) for variable in model.trainable_variables}
    before = [v.path for v in assembly.logits_model.trainable_variables if id(v) not in behind]
    if before:
        raise TrainablePlanError(
            f"{len(before)} variables of {phase.name!r} lie before the layers that it was to fit "
            f"({', '.join(before[:5])}): they would not train. Set views='fresh' on the phase."
        )
    model.compile(
        optimizer=build_optimizer(phase, assembly, steps=steps, precision=precision),
        loss=cross_entropy(phase.label_smoothing, soft_labels=soft_labels),
        weighted_metrics=metrics(
            loss_too=phase.label_smoothing > 0 or is_distributed() or bool(model.losses),
            soft_labels=soft_labels,
        ),
        # A step of MobileNetV2's last fifth took 7 times the processor time with XLA on a CPU.
        jit_compile=False,
    )
    model.optimizer.build(assembly.logits_model.trainable_variables)
    return plan
