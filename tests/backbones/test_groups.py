"""Groups follow the structure of any model, cover every layer once, and compute in order."""

import keras
import pytest

from tfinetune.backbones.groups import layer_groups

layers = keras.layers


def _names(model):
    return {group.name: [layer.name for layer in group.layers] for group in layer_groups(model)}


def _of(model):
    """Return the group of each layer by the layer's name."""
    return {layer: group for group, names in _names(model).items() for layer in names}


def test_stages_follow_the_resolution(small_cnn):
    groups = _names(small_cnn(top=None))
    assert list(groups) == ["stem", "stage_1", "stage_2"]
    assert groups["stem"][1:] == ["c0", "bn0", "relu0"]
    assert groups["stage_1"] == ["c1", "bn1", "relu1"]
    assert groups["stage_2"] == ["c2", "bn2", "relu2"]


def test_padding_belongs_to_the_convolution_that_it_serves():
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, padding="same", name="a")(inputs)
    x = layers.Conv2D(4, 3, padding="same", name="b")(x)
    x = layers.ZeroPadding2D(name="pad")(x)
    model = keras.Model(inputs, layers.Conv2D(4, 3, strides=2, name="c")(x))
    assert _names(model)["stage_2"] == ["pad", "c"]


def test_squeeze_and_excitation_stays_in_its_stage():
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, padding="same", name="a")(inputs)
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="b")(x)
    gate = layers.Dense(4, name="gate")(layers.GlobalAveragePooling2D(name="squeeze")(x))
    model = keras.Model(
        inputs, layers.Multiply(name="excite")([x, layers.Reshape((1, 1, 4))(gate)])
    )
    assert {"b", "squeeze", "gate", "excite"} <= set(_names(model)["stage_1"])


# --- models of every shape ----------------------------------------------------------------------


def _transformer_block(x, name, mask=None):
    """The pre-normalized block of a ViT."""
    y = layers.LayerNormalization(name=f"{name}_norm1")(x)
    y = layers.MultiHeadAttention(2, 4, name=f"{name}_attention")(y, y, attention_mask=mask)
    x = layers.Add(name=f"{name}_add1")([x, y])
    y = layers.LayerNormalization(name=f"{name}_norm2")(x)
    y = layers.Dense(16, activation="gelu", name=f"{name}_up")(y)
    y = layers.Dense(8, name=f"{name}_down")(y)
    return layers.Add(name=f"{name}_add2")([x, y])


def vit(blocks=2):
    """Patches, a learned class token and learned positions, of stock layers."""
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 4, strides=4, name="patches")(image)
    x = layers.Reshape((4, 8), name="tokens")(x)
    zeros = keras.ops.zeros_like(x[:, :1, 0], dtype="int32")
    x = layers.Concatenate(axis=1)([layers.Embedding(1, 8, name="class_token")(zeros), x])
    steps = keras.ops.cumsum(keras.ops.ones_like(x[..., 0], dtype="int32"), axis=1) - 1
    x = layers.Add(name="embedded")([x, layers.Embedding(5, 8, name="positions")(steps)])
    for number in range(1, blocks + 1):
        x = _transformer_block(x, f"block{number}")
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(image, layers.Dense(3, name="classes")(x[:, 0]))


def bert():
    """Three inputs, one of them a mask that every block takes."""
    words, types = (keras.Input((6,), dtype="int32", name=name) for name in ("words", "types"))
    mask = keras.Input((6,), dtype="bool", name="mask")
    embedded = [layers.Embedding(9, 8, name="word")(words)]
    embedded.append(layers.Embedding(2, 8, name="type")(types))
    x = layers.LayerNormalization(name="norm")(layers.Add()(embedded))
    for number in (1, 2, 3):
        x = _transformer_block(x, f"block{number}", mask=mask[:, None, :])
    pooled = layers.Dense(8, activation="tanh", name="pooler")(x[:, 0])
    return keras.Model([words, types, mask], pooled)


def words(layer=layers.GRU, depth=2):
    """Token embedding below recurrent layers, whose number is `depth`."""
    inputs = keras.Input((None,), dtype="int32", name="words")
    x = layers.Embedding(20, 6, mask_zero=True, name="embed")(inputs)
    for number in range(1, depth + 1):
        x = layer(5, return_sequences=number < depth, name=f"recurrent{number}")(x)
    return keras.Model(inputs, layers.Dense(2, name="classes")(x))


def both_ways():
    inputs = keras.Input((7, 3), name="steps")
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="recurrent1")(inputs)
    x = layers.TimeDistributed(layers.Dense(4), name="each_step")(x)
    return keras.Model(inputs, layers.LSTM(4, name="recurrent2")(x))


def signal():
    inputs = keras.Input((64, 2), name="signal")
    x = inputs
    for number in (1, 2, 3):
        x = layers.Conv1D(4, 3, padding="same", name=f"conv{number}")(x)
        x = layers.BatchNormalization(name=f"bn{number}")(x)
        x = layers.MaxPooling1D(name=f"pool{number}")(x)
    x = layers.Dense(4, name="hidden")(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, x)


def signal_then_steps():
    inputs = keras.Input((64, 2), name="signal")
    x = layers.Conv1D(4, 3, strides=2, padding="same", name="conv1")(inputs)
    x = layers.Conv1D(4, 3, strides=2, padding="same", name="conv2")(x)
    x = layers.LSTM(4, return_sequences=True, name="recurrent1")(x)
    return keras.Model(inputs, layers.LSTM(4, name="recurrent2")(x))


def table():
    columns, kind = keras.Input((4,), name="columns"), keras.Input((1,), dtype="int32", name="kind")
    normalized = layers.Normalization(mean=[0.0] * 4, variance=[1.0] * 4, name="scale")(columns)
    embedded = layers.Flatten()(layers.Embedding(3, 2, name="embed")(kind))
    x = layers.Concatenate(name="row")([normalized, embedded])
    for number in (1, 2, 3):
        x = layers.Dense(4, activation="relu", name=f"dense{number}")(x)
        x = layers.BatchNormalization(name=f"bn{number}")(x)
    return keras.Model([columns, kind], x)


def towers():
    image, text = keras.Input((16, 16, 3), name="image"), keras.Input((5,), name="text")
    x = layers.Conv2D(4, 3, padding="same", name="conv1")(image)
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="conv2")(x)
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="conv3")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    y = layers.GRU(4, name="recurrent")(layers.Embedding(9, 4, name="embed")(text))
    joined = layers.Concatenate(name="join")([x, y])
    return keras.Model([image, text], layers.Dense(4, name="fusion")(joined))


def heads():
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="conv1")(image)
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="conv2")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = []
    for name in ("age", "mood"):
        hidden = layers.Dense(4, name=f"{name}_hidden")(x)
        outputs.append(layers.Dense(2, name=name)(hidden))
    return keras.Model(image, [*outputs, x])


def siamese():
    shared = layers.Embedding(9, 4, name="embed"), layers.GRU(4, name="recurrent")
    inputs = [keras.Input((5,), name=name) for name in ("left", "right")]
    ends = [shared[1](shared[0](tensor)) for tensor in inputs]
    return keras.Model(inputs, layers.Dense(1, name="score")(layers.Subtract()(ends)))


def segmenter():
    """Skip connections between the encoder and the decoder, as in U-Net."""
    image = x = keras.Input((16, 16, 3), name="image")
    skipped = []
    for number in (1, 2):
        x = layers.Conv2D(4, 3, padding="same", name=f"down{number}")(x)
        skipped.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(4, 3, padding="same", name="middle")(x)
    for number in (2, 1):
        x = layers.Concatenate()([layers.UpSampling2D()(x), skipped.pop()])
        x = layers.Conv2D(4, 3, padding="same", name=f"up{number}")(x)
    return keras.Model(image, x)


def video():
    inputs = keras.Input((4, 8, 8, 1), name="video")
    x = layers.ConvLSTM2D(2, 3, padding="same", return_sequences=True, name="recurrent")(inputs)
    return keras.Model(inputs, layers.Conv3D(2, 2, strides=2, name="conv")(x))


WHERE = {
    vit: {
        "stem": ["patches", "class_token", "positions", "embedded"],
        "stage_1": ["block1_norm1", "block1_attention", "block1_down", "block1_add2"],
        "stage_2": ["block2_norm1", "block2_attention", "block2_down", "norm"],
        "stage_3": ["classes"],
    },
    bert: {
        "stem": ["word", "type", "norm", "mask"],
        "stage_1": ["block1_norm1", "block1_add2"],
        "stage_2": ["block2_norm1", "block2_add2"],
        "stage_3": ["block3_norm1", "block3_add2"],
        "stage_4": ["pooler"],
    },
    words: {
        "stem": ["words", "embed"],
        "stage_1": ["recurrent1"],
        "stage_2": ["recurrent2"],
        "stage_3": ["classes"],
    },
    both_ways: {"stem": ["steps"], "stage_1": ["recurrent1", "each_step"],
                "stage_2": ["recurrent2"]},
    signal: {
        "stem": ["conv1", "bn1", "pool1"],
        "stage_1": ["conv2", "bn2"],
        "stage_2": ["pool2", "conv3", "bn3"],
        "stage_3": ["hidden"],
    },
    signal_then_steps: {"stem": ["conv1"], "stage_1": ["conv2"], "stage_2": ["recurrent1"],
                        "stage_3": ["recurrent2"]},
    table: {
        "stem": ["scale", "embed", "row"],
        "stage_1": ["dense1", "bn1"],
        "stage_2": ["dense2", "bn2"],
        "stage_3": ["dense3", "bn3"],
    },
    towers: {
        "stem": ["conv1", "embed"],
        "stage_1": ["conv2", "recurrent"],
        "stage_2": ["conv3", "pool"],
        "stage_3": ["fusion"],
    },
    heads: {
        "stem": ["conv1"],
        "stage_1": ["conv2", "pool"],
        "stage_2": ["age_hidden", "mood_hidden"],
        "stage_3": ["age", "mood"],
    },
    siamese: {"stem": ["embed"], "stage_1": ["recurrent"], "stage_2": ["score"]},
    segmenter: {"stem": ["down1"], "stage_1": ["down2"], "stage_2": ["middle", "up2", "up1"]},
    video: {"stem": ["video"], "stage_1": ["recurrent"], "stage_2": ["conv"]},
}  # fmt: skip


@pytest.mark.parametrize("build", WHERE, ids=lambda build: build.__name__)
def test_groups_follow_the_structure(build):
    model = build()
    found = _of(model)
    assert sorted(set(found.values())) == sorted(WHERE[build])
    for group, names in WHERE[build].items():
        assert {name: found[name] for name in names} == dict.fromkeys(names, group)
    _check_partition(model)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("layer", [layers.GRU, layers.LSTM, layers.SimpleRNN])
def test_each_recurrent_layer_is_a_stage(layer, depth):
    found = _of(words(layer, depth))
    assert [found[f"recurrent{i}"] for i in range(1, depth + 1)] == [
        f"stage_{i}" for i in range(1, depth + 1)
    ]


def test_each_transformer_block_is_a_stage():
    groups = _names(vit(blocks=6))
    assert list(groups) == ["stem", *(f"stage_{i}" for i in range(1, 8))]
    assert all(f"block{i}_attention" in groups[f"stage_{i}"] for i in range(1, 7))


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        # architecture: height of the stem's and of each stage's result for 96 pixels
        ("MobileNetV3Small", [48, 24, 12, 6, 3]),
        ("EfficientNetV2B0", [48, 48, 24, 12, 6, 3]),
        ("ResNet50", [24, 24, 12, 6, 3]),
        ("DenseNet121", [24, 24, 12, 6, 3]),
        ("ConvNeXtTiny", [24, 24, 12, 6, 3]),
        pytest.param("NASNetMobile", [24, 24, 24, 12, 6, 3], marks=pytest.mark.slow),
    ],
)
def test_stages_of_keras_applications_work_at_one_resolution(name, sides, application):
    model = application(name)
    groups = layer_groups(model)
    assert [group.layers[-1].output.shape[1] for group in groups] == sides
    _check_partition(model)


def _check_partition(model):
    """Check that every layer is in one group, and no group needs a later one."""
    groups = layer_groups(model)
    grouped = [id(layer) for group in groups for layer in group.layers]
    assert sorted(grouped) == sorted(map(id, model.layers))
    assert sum(group.parameters for group in groups) == model.count_params()
    number = {id(layer): i for i, group in enumerate(groups) for layer in group.layers}
    latest = {}
    for nodes in (model._nodes_by_depth[depth] for depth in sorted(model._nodes_by_depth)[::-1]):
        for node in nodes:
            before = max((latest[id(tensor)] for tensor in node.input_tensors), default=0)
            own = number.get(id(node.operation), before)
            assert before <= own, node.operation.name
            latest.update({id(tensor): own for tensor in node.outputs})
