"""Turn stored arrays from the layouts of old Keras versions into Keras 3's.

Keras 1 named weights by letters and kept one array per gate of an LSTM; Theano mirrors the kernels
of convolutions; the CuDNN layers of TensorFlow 1 transposed theirs and kept two biases. The rules
are those of `preprocess_weights_for_loading` in Keras 2.
"""

import re
from collections.abc import Sequence
from itertools import groupby

import keras
import numpy as np

Stored = tuple[str, np.ndarray]

# Letters of Keras 1, and names of Keras 2 that changed.
_RENAMED = {
    "W": "kernel",
    "U": "recurrent_kernel",
    "b": "bias",
    "alphas": "alpha",
    "depthwise_kernel": "kernel",
    "embeddings": "kernel",  # One letter, W, in Keras 1.
    "running_mean": "moving_mean",
    "running_std": "moving_variance",  # A variance in spite of its name.
}
_KERAS_1 = re.compile(
    r"(?P<prefix>.*?)_?(?P<kind>W|U|b|alphas|gamma|beta|running_mean|running_std"
    r"|depthwise_kernel|pointwise_kernel)(?P<gate>_[ifcozrh])?"
)
_GATES = ("ifco", "zrh")
# Backends of Keras 1 that lost the name of a weight.
_NAMELESS = re.compile(r"(uniform|normal|param|variable)_?\d*", re.IGNORECASE)
_CONVOLUTIONS = ("Conv1D", "Conv2D", "Conv3D", "Conv2DTranspose", "ConvLSTM2D", "ConvLSTM2DCell")


def known_name(name: str) -> str | None:
    """Return what Keras 3 calls a weight, given its name in any version; None if it has no name."""
    leaf = name.rpartition("/")[2].partition(":")[0]
    if _NAMELESS.fullmatch(leaf):
        return None
    if match := _KERAS_1.fullmatch(leaf):
        leaf = match["kind"]
    return _RENAMED.get(leaf, leaf)


def join_gates(arrays: Sequence[Stored]) -> list[Stored]:
    """Join the arrays that Keras 1 kept per gate of a recurrent layer."""
    joined: list[Stored] = []
    for prefix, group in groupby(arrays, key=lambda item: _gate(item[0])[0]):
        items = list(group)
        gates = {_gate(name)[1:]: array for name, array in items}
        order = next((o for o in _GATES if {gate for _, gate in gates} == set(o)), None)
        if order is None:
            joined.extend(items)
            continue
        for kind in dict.fromkeys(kind for kind, _ in gates):
            parts = [gates[kind, gate] for gate in order]
            joined.append((f"{prefix}_{kind}", np.concatenate(parts, axis=-1)))
    return joined


def _gate(name: str) -> tuple[str, str, str]:
    match = _KERAS_1.fullmatch(name.rpartition("/")[2].partition(":")[0])
    if match is None or match["gate"] is None:
        return name, "", ""
    return match["prefix"], match["kind"], match["gate"][1:]


def to_keras_3(
    owner: keras.Layer, arrays: Sequence[np.ndarray], names: Sequence[str], *, theano: bool
) -> list[np.ndarray]:
    """Return `arrays`, the stored weights of one layer in order, as that layer wants them.

    Args:
        owner: the layer; for a recurrent one its cell.
        arrays: values, in the order of `names`.
        names: as the file has them.
        theano: whether convolution kernels are mirrored.
    """
    kind = type(owner).__name__
    if kind in ("LSTMCell", "GRUCell") and len(arrays) == 3:
        return _from_cudnn(kind, list(arrays))
    if kind in _CONVOLUTIONS:
        count = 2 if kind.startswith("ConvLSTM") else 1
        letters = _KERAS_1.fullmatch(names[0].rpartition("/")[2].partition(":")[0])
        kernels = [
            _kernel(kind, array, tuple(variable.shape), keras_1=letters is not None, theano=theano)
            for array, variable in zip(arrays[:count], owner.weights, strict=False)
        ]
        return kernels + list(arrays[count:])
    return list(arrays)


def _kernel(
    kind: str, kernel: np.ndarray, shape: tuple[int, ...], *, keras_1: bool, theano: bool
) -> np.ndarray:
    if kind == "Conv1D" and kernel.ndim == 4:  # Keras 1 ran it as a 2-D convolution.
        kernel = kernel[:, 0] if kernel.shape[1] == 1 else kernel[..., 0].transpose(2, 1, 0)
    elif is_channels_first(kernel, shape):
        kernel = kernel.transpose(*range(2, kernel.ndim), 1, 0)
    elif kind == "Conv2DTranspose" and keras_1:
        kernel = kernel.transpose(0, 1, 3, 2)
    if theano:
        kernel = kernel[(slice(None, None, -1),) * (kernel.ndim - 2)]
    return kernel


def is_channels_first(kernel: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether a kernel is stored as [out, in, height, width], as Theano had it."""
    turned = kernel.shape[2:] + kernel.shape[1::-1]
    return kernel.ndim > 3 and kernel.shape != shape and turned == shape


def _from_cudnn(kind: str, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Undo the layout of CuDNN, which its flat pair of biases gives away."""
    kernel, recurrent, bias = arrays
    gates = 4 if kind == "LSTMCell" else 3
    if bias.ndim != 1 or bias.size != 2 * recurrent.shape[-1]:
        return arrays
    kernels = [part.T.reshape(part.shape, order="F") for part in np.hsplit(kernel, gates)]
    recurrents = [part.T for part in np.hsplit(recurrent, gates)]
    biases = bias.reshape(2, -1)
    # A GRU needs both: the recurrent one lies inside its reset gate.
    return [
        np.hstack(kernels),
        np.hstack(recurrents),
        biases.sum(axis=0) if kind == "LSTMCell" else biases,
    ]
