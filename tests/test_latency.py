"""What an objective of time measures: the model's work, not the clock's mood."""

import time

import keras
import pytest
import tensorflow as tf

from tfinetune.inference import latency_ms


class Clock:
    """Stands still but while a `Working` layer computes."""

    def __init__(self):
        self.now = 0.0

    def work(self, array):
        self.now += 0.001 * len(array)
        return array


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


class Working(keras.layers.Layer):
    """Takes a millisecond for each example."""

    def __init__(self, clock):
        super().__init__()
        self._clock = clock

    def compute_output_shape(self, shape):
        return shape

    def call(self, inputs):
        outputs = tf.numpy_function(self._clock.work, [inputs], tf.float32)
        return tf.ensure_shape(outputs, inputs.shape)


@pytest.mark.parametrize("layers", [1, 3])
def test_latency_is_the_time_of_one_example_through_the_whole_model(layers, clock):
    x = image = keras.Input((4, 4, 3))
    for _ in range(layers):
        x = Working(clock)(x)
    assert latency_ms(keras.Model(image, x)) == pytest.approx(layers)
