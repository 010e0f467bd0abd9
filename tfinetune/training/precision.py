"""In which precision the backbone computes while it is trained.

Mixed precision keeps weights in float32 and multiplies in 16 bits (Micikevicius et al. 2018, "Mixed
Precision Training"). It pays only where the hardware has units for it, so `auto` takes it where it
was measured to be faster. What ships computes in float32 whatever it was trained in.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import keras
import tensorflow as tf

from tfinetune.assembly import Assembly
from tfinetune.backbones.graph import sample_inputs
from tfinetune.distribution import replicas
from tfinetune.errors import RecipeError
from tfinetune.inference import ConstantFunction, constant_function
from tfinetune.recipe import INT8_REFUSED, PrecisionName

LEAST_SPEEDUP = 1.1
_BATCH = 32
_CPU_FLAGS = ("amx_bf16", "avx512_bf16")
# Of 0..255 sixteen bits would keep only every other value; a table look-up is exact.
_KEPT_EXACT = (
    keras.layers.Rescaling,
    keras.layers.Normalization,
    keras.layers.Discretization,
    keras.layers.TextVectorization,
    keras.layers.Hashing,
)


@dataclass(frozen=True)
class Precision:
    """A precision, and why it was chosen.

    Attributes:
        name: `float32`, `mixed_bfloat16` or `mixed_float16`.
        reason: one clause for the report.
        speedup: of a forward pass over float32, where it was measured.
    """

    name: str
    reason: str
    speedup: float | None = None

    def describe(self) -> str:
        """Return the name with its reason."""
        return f"{self.name} ({self.reason})"


def choose_precision(name: PrecisionName, assembly: Assembly) -> Precision:
    """Return the precision to train in.

    Args:
        name: `auto` measures where the hardware knows 16 bits; any other is taken as it is.
        assembly: what is going to be trained; not changed.

    Raises:
        RecipeError: if nothing trains in it.
    """
    if name == "int8":
        raise RecipeError(f"{INT8_REFUSED}.")
    if name not in (known := get_args(PrecisionName)):
        raise RecipeError(f"There is no precision {name!r}. Known: {', '.join(known)}.")
    if name != "auto":
        return Precision(name, "as set")
    candidate, hardware = _known_by_hardware()
    if candidate is None:
        return Precision("float32", hardware)
    if candidate == "mixed_float16" and replicas() > 1:
        return Precision("float32", "mixed_float16 cannot be distributed")
    speedup = _measured_speedup(assembly, candidate)
    if speedup < LEAST_SPEEDUP:
        return Precision(
            "float32", f"{candidate} measured at {speedup:.2f} times its speed", speedup
        )
    return Precision(candidate, f"measured at {speedup:.2f} times the speed of float32", speedup)


@contextlib.contextmanager
def computing_in(precision: str, model: keras.Model) -> Iterator[None]:
    """Let the layers of a model compute in a precision; afterwards they do as before.

    Weights are float32 all along. Only what is traced inside is affected.
    """
    layers = [
        layer
        for layer in model._flatten_layers(include_self=False)
        if not isinstance(layer, _KEPT_EXACT) and layer.dtype_policy.name == "float32"
    ]
    if precision == "float32":
        layers = []
    for layer in layers:
        layer.dtype_policy = precision
    try:
        yield
    finally:
        for layer in layers:
            layer.dtype_policy = "float32"


def _known_by_hardware() -> tuple[str | None, str]:
    """Return the precision that this machine has units for, or None with the reason."""
    if tf.config.list_physical_devices("TPU"):
        return "mixed_bfloat16", "TPU"
    for gpu in tf.config.list_physical_devices("GPU"):
        major, _ = tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        if major >= 8:
            return "mixed_bfloat16", "GPU"
        if major == 7:
            return "mixed_float16", "GPU"
        return None, "this GPU has no units for 16 bits"
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
        if any(flag in flags for flag in _CPU_FLAGS):
            return "mixed_bfloat16", "CPU"
    return None, "this processor has no bfloat16 instructions"


def _measured_speedup(assembly: Assembly, precision: str) -> float:
    model = assembly.features_model
    batch = [tf.repeat(array, _BATCH, axis=0) for array in sample_inputs(model)]
    inputs = tf.nest.pack_sequence_as(model.input, batch)
    plain = constant_function(model)
    with computing_in(precision, assembly.backbone.model):
        mixed = constant_function(model)
    return _seconds(plain, inputs) / _seconds(mixed, inputs)


def _seconds(function: ConstantFunction, inputs: Any, *, repeats: int = 3) -> float:
    """Return the shortest time of a call, the first one apart."""
    function(inputs)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        tf.nest.flatten(function(inputs))[0].numpy()
        times.append(time.perf_counter() - started)
    return min(times)
