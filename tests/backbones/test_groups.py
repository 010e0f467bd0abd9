"""Groups follow resolution, cover every layer once, and start with the stem."""

import keras

from tfinetune.backbones import load_backbone
from tfinetune.backbones.groups import layer_groups

layers = keras.layers


def _names(model):
    return {group.name: [layer.name for layer in group.layers] for group in layer_groups(model)}


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


def test_each_attention_block_is_a_stage():
    inputs = keras.Input((8, 8, 3))
    x = layers.Reshape((4, 8))(layers.Conv2D(8, 4, strides=4, name="patches")(inputs))
    for i in range(2):
        x = layers.Add()([x, layers.MultiHeadAttention(2, 4, name=f"attention{i}")(x, x)])
    groups = _names(keras.Model(inputs, x))
    assert list(groups) == ["stem", "stage_1", "stage_2"]
    assert "attention0" in groups["stage_1"]
    assert "attention1" in groups["stage_2"]


def test_every_layer_is_in_exactly_one_group_and_they_compute_in_order():
    backbone = load_backbone("MobileNetV3Small", weights="none", image_size=64)
    grouped = [layer for group in backbone.groups for layer in group.layers]
    assert sorted(map(id, grouped)) == sorted(map(id, backbone.model.layers))
    assert [group.name for group in backbone.groups][:2] == ["stem", "stage_1"]
    assert sum(group.parameters for group in backbone.groups) == backbone.model.count_params()
    position = {id(layer): i for i, layer in enumerate(grouped)}
    for layer in grouped:
        for node in layer._inbound_nodes:
            for parent in node.parent_nodes:
                assert position.get(id(parent.operation), -1) < position[id(layer)]
