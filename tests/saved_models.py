"""SavedModels of every kind, made on the spot: modules, Keras 3 exports, TensorFlow 1 graphs."""

from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

SIZE = 8


class Blocks(tf.Module):
    """Two blocks of convolution and batch norm with a training mode, as TF-Hub models have."""

    def __init__(self) -> None:
        super().__init__()
        random = tf.random.Generator.from_seed(0)
        self.blocks = []
        for index, (inputs, outputs) in enumerate([(3, 4), (4, 6)], start=1):
            with tf.name_scope(f"block_{index}"):
                self.blocks.append(
                    {
                        "kernel": _variable("conv/kernel", random.normal([3, 3, inputs, outputs])),
                        "gamma": _variable("bn/gamma", tf.ones(outputs)),
                        "mean": _variable("bn/moving_mean", tf.zeros(outputs), trainable=False),
                    }
                )
        self.regularization_losses = [self._penalty]

    @tf.function
    def __call__(self, images, training=False):
        x = images
        for block in self.blocks:
            x = tf.nn.conv2d(x, block["kernel"], 1, "SAME")
            mean = tf.reduce_mean(x, [0, 1, 2])
            if training:
                block["mean"].assign(0.5 * block["mean"] + 0.5 * mean)
                x = tf.nn.relu((x - mean) * block["gamma"])
            else:
                x = tf.nn.relu((x - block["mean"]) * block["gamma"])
        return tf.reduce_mean(x, [1, 2])

    @tf.function(input_signature=[])
    def _penalty(self):
        return 0.25 * tf.nn.l2_loss(self.blocks[0]["kernel"])


def _variable(name: str, value: tf.Tensor, *, trainable: bool = True) -> tf.Variable:
    return tf.Variable(value, name=name, trainable=trainable)


def save_blocks(path: Path) -> Blocks:
    module = Blocks()
    spec = tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32, name="images")
    for training in (False, True):
        module.__call__.get_concrete_function(spec, training=training)
    serve = module.__call__.get_concrete_function(spec, training=False)
    tf.saved_model.save(module, str(path), signatures=serve)
    return module


def save_keras_export(path: Path) -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 3, name="conv_a")(image)
    x = keras.layers.BatchNormalization(name="bn_a")(x)
    x = keras.layers.Conv2D(4, 3, name="conv_b")(x)
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))
    model.export(path, verbose=False)
    return model


def save_tensorflow_1(path: Path, *, reference: bool = True, tags: tuple = ("serve",)) -> None:
    """Write y = relu(x @ kernel + bias) with the graph that trained it, as TensorFlow 1 did."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        with v1.variable_scope("dense", use_resource=not reference):
            kernel = v1.get_variable("kernel", [4, 3], initializer=v1.ones_initializer())
            bias = v1.get_variable("bias", initializer=tf.constant([0.0, 1.0, -20.0]))
        y = tf.nn.relu(x @ kernel + bias)
        v1.train.AdamOptimizer().minimize(tf.reduce_mean(y))
        v1.report_uninitialized_variables()
        session.run(v1.global_variables_initializer())
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y, "sum": x @ kernel})
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, list(tags), {"serving_default": signature})
        builder.save()


def save_function(path: Path, function: Callable[[tf.Tensor], tf.Tensor]) -> Path:
    """Write a SavedModel that computes `function` of float32 [n, 4]."""

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def __call__(self, x):
            return function(x)

    tf.saved_model.save(Module(), str(path))
    return path
