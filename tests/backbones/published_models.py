"""Architectures of real models that are stored as weights alone, as their authors built them."""

import keras

layers = keras.layers


def mobilenet_v1_025() -> keras.Model:
    """Build the smallest MobileNetV1 with its 1000-class top."""
    return keras.applications.MobileNet((224, 224, 3), alpha=0.25, weights=None)


def collaborative_filtering(*, size: int, towers: tuple[int, ...] = ()) -> keras.Model:
    """Score 6,040 users with 3,706 films: GMF multiplies their vectors, MLP has towers on them."""
    user, item = keras.Input((1,), name="user"), keras.Input((1,), name="item")
    pair = [
        layers.Flatten()(layers.Embedding(count, size, name=f"{name}_embedding")(tensor))
        for name, count, tensor in (("user", 6040, user), ("item", 3706, item))
    ]
    x = layers.Concatenate()(pair) if towers else layers.Multiply()(pair)
    for number, units in enumerate(towers, start=1):
        x = layers.Dense(units, "relu", name=f"layer{number}")(x)
    return keras.Model([user, item], layers.Dense(1, "sigmoid", name="prediction")(x))


class WeightedAverage(layers.Layer):
    """The attention of textgenrnn."""

    def build(self, shape):
        self.direction = self.add_weight(shape=(shape[-1], 1), name=f"{self.name}_W")

    def call(self, x):
        return keras.ops.sum(x * keras.ops.softmax(x @ self.direction, axis=1), axis=1)


def textgenrnn() -> keras.Model:
    """Build the model that writes on, letter by letter."""
    text = keras.Input((40,))
    embedded = layers.Embedding(465, 100, name="embedding")(text)
    first = layers.LSTM(128, return_sequences=True, name="rnn_1")(embedded)
    second = layers.LSTM(128, return_sequences=True, name="rnn_2")(first)
    attended = WeightedAverage(name="attention")(layers.Concatenate()([embedded, first, second]))
    return keras.Model(text, layers.Dense(465, "softmax", name="output")(attended))
