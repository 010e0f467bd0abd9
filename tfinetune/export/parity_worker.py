"""Runs in a fresh process without tfinetune: serve a SavedModel and write what it answers.

Usage: parity_worker.py tf2|v1 SAVED_MODEL INPUTS.npz   (writes tf2.npz or v1.npz beside INPUTS)
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

SIGNATURES = {"serving_default": "images", "serving_bytes": "image_bytes"}


def serve_tf2(path: str, inputs: dict) -> dict:
    """Answer with the functions of `tf.saved_model.load`."""
    loaded = tf.saved_model.load(path)
    answers = {}
    for signature, name in SIGNATURES.items():
        function = loaded.signatures[signature]
        answers[signature] = function(**{name: tf.constant(inputs[name])})["probabilities"].numpy()
    return answers


def serve_v1(path: str, inputs: dict) -> dict:
    """Answer in a Session, feeding and fetching tensors by name as TensorFlow Serving does."""
    answers = {}
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], path)
        for signature, name in SIGNATURES.items():
            definition = meta.signature_def[signature]
            answers[signature] = session.run(
                definition.outputs["probabilities"].name,
                {definition.inputs[name].name: inputs[name]},
            )
    return answers


def main(route: str, path: str, inputs_path: str) -> None:
    """Read the inputs, serve, write the answers."""
    with np.load(inputs_path) as arrays:
        ends = np.cumsum(arrays["lengths"])
        joined = arrays["joined"].tobytes()
        files = [joined[end - n : end] for end, n in zip(ends, arrays["lengths"], strict=True)]
        inputs = {"images": arrays["images"], "image_bytes": np.array(files, dtype=object)}
    answers = {"tf2": serve_tf2, "v1": serve_v1}[route](path, inputs)
    np.savez(os.path.join(os.path.dirname(inputs_path), f"{route}.npz"), **answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
