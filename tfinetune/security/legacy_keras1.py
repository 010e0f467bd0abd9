"""Rename the classes and arguments of Keras 1 to those of Keras 2. JSON in, JSON out.

The names are those of `keras/legacy/interfaces.py` in Keras 2, which did the same for source code.
"""

from typing import Any

from tfinetune.errors import BackboneError

Config = dict[str, Any]

_CLASSES = {
    "AtrousConvolution1D": "Conv1D",
    "AtrousConvolution2D": "Conv2D",
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Convolution3D": "Conv3D",
    "Deconvolution2D": "Conv2DTranspose",
    "SeparableConvolution2D": "SeparableConv2D",
}
_MERGE_MODES = {
    "sum": "Add",
    "mul": "Multiply",
    "ave": "Average",
    "max": "Maximum",
    "concat": "Concatenate",
    "dot": "Dot",
}
_ARGUMENTS = {
    "W_constraint": "kernel_constraint",
    "W_regularizer": "kernel_regularizer",
    "U_regularizer": "recurrent_regularizer",
    "atrous_rate": "dilation_rate",
    "b_constraint": "bias_constraint",
    "b_regularizer": "bias_regularizer",
    "beta_init": "beta_initializer",
    "bias": "use_bias",
    "border_mode": "padding",
    "dim_ordering": "data_format",
    "dropout_U": "recurrent_dropout",
    "dropout_W": "dropout",
    "filter_length": "kernel_size",
    "gamma_init": "gamma_initializer",
    "init": "kernel_initializer",
    "inner_activation": "recurrent_activation",
    "inner_init": "recurrent_initializer",
    "nb_filter": "filters",
    "output_dim": "units",
    "p": "rate",
    "pool_length": "pool_size",
    "sigma": "stddev",
    "stride": "strides",
    "subsample": "strides",
    "subsample_length": "strides",
}
# Where a class uses a word in another sense.
_ARGUMENTS_OF = {
    "Embedding": {
        "W_constraint": "embeddings_constraint",
        "W_regularizer": "embeddings_regularizer",
        "init": "embeddings_initializer",
        "output_dim": "output_dim",
    },
    "PReLU": {"init": "alpha_initializer"},
    "UpSampling1D": {"length": "size"},
}
_UNUSED = {"consume_less", "input_dtype", "input_length", "output_shape"}
_INITIALIZERS = {
    "normal": "random_normal",
    "one": "ones",
    "uniform": "random_uniform",
    "zero": "zeros",
}
_REGULARIZERS = {"L1L2Regularizer", "WeightRegularizer", "ActivityRegularizer"}


def modernize(layer: Config) -> None:
    """Rewrite a layer of Keras 1 and everything inside it, in place."""
    name, config = layer["class_name"], layer["config"]
    if isinstance(config, list) or "layers" in config:
        for item in config if isinstance(config, list) else config["layers"]:
            modernize(item)
        return
    if isinstance(config.get("layer"), dict):
        modernize(config["layer"])
    if name == "Merge":
        layer["class_name"], layer["config"] = _merge(config)
        return
    layer["class_name"] = _CLASSES.get(name, name)
    layer["config"] = _arguments(layer["class_name"], config)


def _arguments(name: str, config: Config) -> Config:
    config = {key: value for key, value in config.items() if key not in _UNUSED}
    if name != "Embedding":
        config.pop("input_dim", None)
    elif config.pop("dropout", 0):
        raise BackboneError(
            f"The layer {config.get('name')!r} is an Embedding with dropout, which only Keras 1 "
            "has. Save the model again with dropout=0: predictions stay the same."
        )
    if name == "BatchNormalization" and config.pop("mode", 0) not in (0, 2):
        raise BackboneError(
            f"The layer {config.get('name')!r} normalizes each example by itself "
            "(BatchNormalization mode=1), which only Keras 1 has. Rebuild it with "
            "LayerNormalization."
        )
    sizes = [config.pop(key) for key in ("nb_row", "nb_col") if key in config]
    sizes = sizes or [config.pop(f"kernel_dim{i}") for i in (1, 2, 3) if f"kernel_dim{i}" in config]
    names = {**_ARGUMENTS, **_ARGUMENTS_OF.get(name, {})}
    renamed = {names.get(key, key): _value(value) for key, value in config.items()}
    if sizes:
        renamed["kernel_size"] = sizes
    if "data_format" in renamed:
        order = {"tf": "channels_last", "th": "channels_first"}
        renamed["data_format"] = order.get(renamed["data_format"], renamed["data_format"])
    for key in renamed:
        if key.endswith("_initializer"):
            renamed[key] = _INITIALIZERS.get(renamed[key], renamed[key])
    if "forget_bias_init" in renamed:
        renamed["unit_forget_bias"] = renamed.pop("forget_bias_init") == "one"
    return renamed


def _value(value: Any) -> Any:
    """Rewrite a regularizer or constraint, whose class Keras 1 called its name."""
    if not isinstance(value, dict) or "class_name" in value or "name" not in value:
        return value
    settings = {key: item for key, item in value.items() if key != "name"}
    if value["name"] in _REGULARIZERS:
        return {"class_name": "L1L2", "config": settings}
    if "m" in settings:
        settings["max_value"] = settings.pop("m")
    return {"class_name": value["name"], "config": settings}


def _merge(config: Config) -> tuple[str, Config]:
    mode, name = config["mode"], config["name"]
    if mode not in _MERGE_MODES or config.get("mode_type", "raw") != "raw":
        raise BackboneError(
            f"The layer {name!r} merges its inputs by {mode!r}, which only Keras 1 has, or with a "
            f"function, which is never run. Allowed: {', '.join(_MERGE_MODES)}."
        )
    merged: Config = {"name": name}
    if mode == "concat":
        merged["axis"] = config["concat_axis"]
    if mode == "dot":
        merged["axes"] = config["dot_axes"]
    return _MERGE_MODES[mode], merged
