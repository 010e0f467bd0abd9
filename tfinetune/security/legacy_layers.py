"""Translate the config of one layer of Keras 2 to Keras 3. JSON in, JSON out.

Arguments that Keras 3 dropped are removed only while they hold the value that means "not used";
anything else is an error, since the layer would compute something different.
"""

from typing import Any

from tfinetune.errors import BackboneError

Config = dict[str, Any]

# Argument -> the values under which Keras 3 computes the same without it.
_DROPPED_WHEN_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "adjustment": (None,),
    "batch_size": (None,),
    "experimental_autocast": (True, False),
    "fused": (None, True, False),
    "implementation": (0, 1, 2),
    "ragged": (False,),
    "renorm": (False,),
    "time_major": (False,),
    "virtual_batch_size": (None,),
}
# What Keras 2 wrote for itself and no layer of Keras 3 asks for.
_DROPPED = ("input_dtype", "input_length", "key_shape", "query_shape", "value_shape")
_ONE_GROUP = ("DepthwiseConv", "SeparableConv", "Conv1DTranspose", "Conv2DTranspose", "Conv3DT")
_KERNEL_ARGUMENTS = ("kernel_initializer", "kernel_regularizer", "kernel_constraint")
_WITHOUT_TRAINABLE = ("Discretization", "SpatialDropout")
# Of Keras 2; any other is a function that the caller must have passed.
_ACTIVATIONS = frozenset(
    {"elu", "exponential", "gelu", "linear", "mish", "relu", "relu6", "selu", "sigmoid", "softmax"}
    | {"softplus", "softsign", "swish", "tanh", "leaky_relu", "silu"}
)
_CUDNN = {"CuDNNGRU": "GRU", "CuDNNLSTM": "LSTM"}
# They do nothing outside of training, and a backbone leaves augmentation out.
_REMOVED_AUGMENTATION = ("RandomHeight", "RandomWidth")


def translate_layer(name: str, config: Config) -> tuple[str, Config]:
    """Return class and config as Keras 3 names them. `config` may be changed.

    Raises:
        BackboneError: where Keras 3 has no layer that computes the same.
    """
    _drop_arguments(name, config)
    shape = config.pop("batch_input_shape", None)
    if name == "InputLayer" and shape is not None:
        config["batch_shape"] = shape
    if name in _CUDNN:
        name = _CUDNN[name]
        config |= {"recurrent_activation": "sigmoid", "reset_after": True}
        if name == "LSTM":
            config.pop("reset_after")
    elif name in ("GRU", "GRUCell"):
        config.setdefault(
            "reset_after", False
        )  # The default of Keras 2, which old files leave out.
    elif name == "ThresholdedReLU":
        name = "ReLU"
        config["threshold"] = config.pop("theta")
    elif name in _REMOVED_AUGMENTATION:
        name, config = "Identity", _only(config, "name", "dtype")
    elif name == "RandomCrop":
        # What it does outside of training. Keras 3 passes images on as they are there, although
        # its own output shape says otherwise.
        name, config = "Resizing", _only(config, "name", "dtype", "height", "width")
        config["crop_to_aspect_ratio"] = True
    elif name == "LeakyReLU" and "alpha" in config:
        config["negative_slope"] = config.pop("alpha")
    elif name == "TextVectorization":
        config.pop("dtype", None)
    elif name in ("BatchNormalization", "LayerNormalization"):
        axis = config.get("axis")
        config["axis"] = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    return name, config


def _only(config: Config, *keys: str) -> Config:
    return {key: config[key] for key in keys if key in config}


def _drop_arguments(name: str, config: Config) -> None:
    for key in _DROPPED:
        config.pop(key, None)
    for key, neutral in _DROPPED_WHEN_NEUTRAL.items():
        if key in config and not (name == "InputLayer" and key == "batch_size"):
            _drop(config, key, neutral, name)
    if name.startswith(_ONE_GROUP):
        _drop(config, "groups", (1,), name)
    if name.startswith("SpatialDropout"):
        _drop(config, "noise_shape", (None,), name)
    if name.startswith(_WITHOUT_TRAINABLE):
        config.pop("trainable", None)
    if name == "AdditiveAttention":
        config.pop("score_mode", None)  # It has one of its own.
    if name.startswith(("DepthwiseConv", "SeparableConv")):
        # The base class's unused arguments; depthwise_* and pointwise_* are the real ones.
        for key in _KERNEL_ARGUMENTS:
            config.pop(key, None)
    if name.startswith("DepthwiseConv"):
        config.pop("filters", None)


def _drop(config: Config, key: str, neutral: tuple[Any, ...], layer: str) -> None:
    value = config.pop(key, neutral[0])
    if value not in neutral:
        raise BackboneError(
            f"A {layer} layer was saved with {key}={value!r}, which Keras 3 no longer has. "
            f"Allowed: {', '.join(map(repr, neutral))}. Rebuild the model in Keras 3 and save "
            "it again."
        )


def translate_activation(name: str) -> str | Config:
    """Return an activation as Keras 3 understands it: a name of its own, or an object."""
    if name == "hard_sigmoid":
        return _hard_sigmoid()
    if name in _ACTIVATIONS:
        return name
    return {"module": None, "class_name": "function", "config": name, "registered_name": name}


def _hard_sigmoid() -> Config:
    """Return the activation that Keras 1 and 2 called `hard_sigmoid`: 0.2x + 0.5 within [0, 1].

    Keras 3 computes x/6 + 0.5 under that name. Any activation may be a layer: these are stock ones,
    so that the model still saves as plain Keras.
    """
    line = {"module": "keras.layers", "class_name": "Rescaling", "registered_name": None}
    clip = {"module": "keras.layers", "class_name": "ReLU", "registered_name": None}
    return {
        "module": "keras.layers",
        "class_name": "Pipeline",
        "registered_name": None,
        "config": {
            "name": "hard_sigmoid_of_keras_2",
            "layers": [
                {**line, "config": {"scale": 0.2, "offset": 0.5}},
                {**clip, "config": {"max_value": 1.0}},
            ],
        },
    }
