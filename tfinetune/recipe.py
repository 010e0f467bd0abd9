"""A recipe says everything that a run was made of, in YAML, and reproduces it.

Pure data: no TensorFlow here, so that commands can check one before anything slow is loaded.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tfinetune.errors import RecipeError
from tfinetune.storage import write_text

Fraction = Annotated[float, Field(ge=0, lt=1)]
Preset = Literal["tf", "unit", "raw", "torch", "caffe"]
PrecisionName = Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]
DistributionName = Literal["none", "mirrored", "tpu"]
# Keras 3.15 on two CPU cores: a quantized Dense(3072) took 2.7 times as long as in float32.
INT8_REFUSED = (
    "int8 is not a precision to train in: Keras quantizes Dense, EinsumDense and Embedding only, "
    "no convolution, and their kernels no longer train. Train in float32 and convert what comes "
    "out: keras.models.load_model('RUN/model.keras').export('model.tflite', format='litert', "
    "optimizations=[tf.lite.Optimize.DEFAULT]) keeps its weights in int8"
)
Side = Annotated[int, Field(ge=8, le=4096)]


class Recipe(BaseModel):
    """Data source, backbone, strategy, augmentation and seed of one run.

    Attributes:
        data: folder of photos, `DIR/class/*` or `DIR/{train,validation,test}/class/*`.
        backbone: path of a `.h5` or `.keras` file, or a `keras.applications` name; empty takes the
            best that is available.
        weights: `imagenet`, `none` (start from random weights) or the path of a weights file.
        image_size: height and width in pixels; None takes the backbone's own.
        features: what to build on: `auto` compares the depths of the backbone on the training
            photos, a group (`stage_3`) ends it there, a layer's name takes that layer's output;
            None takes all but the top.
        endpoint: function or signature to call of a SavedModel; None takes the usual one.
        trust: whether the run was allowed a SavedModel that reads, writes or executes. A record: it
            grants nothing, or a recipe of unknown origin could. Say so again to reproduce the run
            (`tfinetune train --trust`, `train(…, trust=True)`).
        input_range: what pixel values 0 and 255 become for the backbone, or a convention of
            keras.applications (`tf`, `unit`, `raw`, `torch`, `caffe`); None detects it.
        aspect: how a photo gets to the image size: `crop`, `pad` or `stretch`.
        validation: share held out to choose and calibrate the model, in [0, 1).
        test: share held out to measure the shipped model, in [0, 1).
        strategy: a name in `tfinetune.training.strategies.STRATEGIES`.
        strategy_parameters: what the strategy is constructed with.
        augmentation: what `tfinetune.data.get_policy` takes: the name of a policy, or operations
            such as `flip, rotate=15`.
        class_weights: `auto` weighs classes when the largest has over 3 times the smallest's
            photos; `always` or `never` decide it.
        dropout: rate before the last layer, in [0, 1).
        head_units: outputs of a hidden layer before it; 0 for a linear head.
        head_activation: of the hidden layer.
        precision: that the backbone computes in while it is trained; `auto` measures which is
            fastest, and the recipe of the run then names it.
        distribute: how a step is shared out among devices: `none`, `mirrored` (all GPUs that the
            process sees) or `tpu`, see `tfinetune.distribution`.
        batch_size: photos a training step, all devices together.
        seed: of the split, the order, the augmentation and the initial weights.
        decoder_version: which decoder made the pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    backbone: str = ""
    weights: str = "imagenet"
    image_size: tuple[Side, Side] | None = None
    features: str | None = None
    endpoint: str | None = None
    trust: bool = False
    input_range: tuple[float, float] | Preset | None = None
    aspect: Literal["crop", "pad", "stretch"] = "stretch"
    validation: Fraction = 0.15
    test: Fraction = 0.15
    strategy: str = "lpft"
    strategy_parameters: dict[str, Any] = Field(default_factory=dict)
    augmentation: str = "light"
    class_weights: Literal["auto", "always", "never"] = "auto"
    dropout: Fraction = 0.2
    head_units: Annotated[int, Field(ge=0, le=65536)] = 0
    head_activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    precision: PrecisionName = "float32"
    distribute: DistributionName = "none"
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    decoder_version: int = 3

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise RecipeError(explain_validation(error, "The recipe")) from None

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value

    @field_validator("precision", mode="before")
    @classmethod
    def _trainable(cls, value: Any) -> Any:
        if value == "int8":
            raise ValueError(INT8_REFUSED)
        return value

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation {self.validation} + test {self.test} leave nothing to train on"
            )
        if isinstance(self.input_range, tuple) and self.input_range[0] >= self.input_range[1]:
            raise ValueError(f"input_range {self.input_range} must rise from low to high")
        return self

    def save(self, path: str | Path) -> None:
        """Write the recipe as YAML, atomically."""
        write_text(path, self.to_yaml())

    def to_yaml(self) -> str:
        """Return the recipe as YAML text."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """Read a recipe from YAML.

        A backbone or weights file that lies beside the recipe (a run keeps the `keras.Model` it was
        given there) is found from wherever the command is started.

        Raises:
            RecipeError: if the file is missing, not YAML, or holds unknown or impossible fields.
        """
        path = Path(path)
        try:
            fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RecipeError(f"Could not read the recipe {path}: {error.strerror}.") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise RecipeError(f"{path} is not a YAML recipe: {reason}.") from None
        if not isinstance(fields, dict):
            raise RecipeError(f"{path} is not a recipe: it holds {type(fields).__name__}.")
        for name in ("backbone", "weights"):
            beside = path.parent / str(fields.get(name, ""))
            if fields.get(name) and beside.is_file():
                fields[name] = str(beside.resolve())
        return cls(**fields)

    def differences(self, other: "Recipe") -> list[str]:
        """Return one line `field: mine, not theirs` for every field that differs."""
        mine, theirs = self.model_dump(), other.model_dump()
        return [
            f"{name}: {mine[name]!r}, not {theirs[name]!r}"
            for name in mine
            if mine[name] != theirs[name]
        ]

    def replace(self, **changes: Any) -> "Recipe":
        """Return a recipe with some fields changed, validated again."""
        return Recipe(**{**self.model_dump(), **changes})


def explain_validation(error: ValidationError, subject: str) -> str:
    """Turn a pydantic error into one paragraph that names each field, its value and its rule."""
    problems = []
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        given = (
            "" if problem["type"] in ("missing", "value_error") else f" (got {problem['input']!r})"
        )
        problems.append(f"{field}: {message}{given}" if field else message + given)
    return f"{subject} is not valid: {'; '.join(problems)}."
