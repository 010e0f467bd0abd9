"""Every command and snippet of the README works as it stands, on small photos."""

import json
import re
import shlex
import subprocess
import sys
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README, flags=re.DOTALL)
# Exercised by .ci/run, which starts from nothing.
INSTALLATION = [
    "pip install . && tfinetune demo",
    "pip install -e '.[test]' && python -m pytest",
]


def commands() -> list[str]:
    lines = "\n".join(text for kind, text in BLOCKS if kind == "bash").splitlines()
    return [re.sub(r"\s+#.*", "", line) for line in lines if line.startswith(("tfinetune", "pip"))]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with the names that the README uses."""
    from PIL import Image
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("readme")
    digits = load_digits()
    for name in ("photos", "more_photos"):
        rows = range(120) if name == "photos" else range(120, 160)
        for row in rows:
            label = digits.target[row]
            if label < 3:
                target = folder / name / f"digit {label}"
                target.mkdir(parents=True, exist_ok=True)
                pixels = (digits.images[row] * 15).astype("uint8")
                Image.fromarray(pixels).resize((64, 64)).convert("RGB").save(target / f"{row}.jpg")
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3)).astype("uint8")
    Image.fromarray(noise).save(folder / "photo.jpg", quality=95)  # too long for an argument
    assert (folder / "photo.jpg").stat().st_size > 500_000
    small_backbone().save(folder / "base_model.h5")
    return folder


def small_backbone():
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    image = keras.Input((64, 64, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    for filters in (8, 8, 12, 16):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, x)


def test_every_command_is_either_run_here_or_an_installation():
    installed = [c for c in commands() if c.startswith("pip")]
    assert installed == INSTALLATION
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install" in ci and "tfinetune demo" in ci and "-e '.[test]'" in ci
    assert "python -m pytest\n" in ci


@pytest.mark.slow
def test_commands_run_in_their_order(workplace, here, monkeypatch):
    monkeypatch.chdir(workplace)
    for command in commands():
        if command.startswith("tfinetune"):
            done = here(*shlex.split(command)[1:])
            assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert (workplace / "runs/again/report.html").exists()
    assert (workplace / "serving/1/saved_model.pb").exists()


@pytest.mark.slow
@pytest.mark.parametrize("snippet", [text for kind, text in BLOCKS if kind == "python"])
def test_python_snippet_runs(workplace, snippet):
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=workplace, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if "export" in snippet:
        assert (workplace / "serving/2/saved_model.pb").exists()
    else:
        assert "head logits True" in done.stdout or "accuracy" in done.stdout


@pytest.mark.slow
def test_curl_client_gets_an_answer_from_the_signature(workplace, tmp_path):
    """The protocol of TensorFlow Serving's REST API, in front of the real SavedModel."""
    import tensorflow as tf

    from tfinetune.export import export_saved_model

    export_saved_model(
        small_backbone(), tmp_path / "1", class_names=["a", "b", "c", "d"], aspect="stretch"
    )
    served = tf.saved_model.load(str(tmp_path / "1")).signatures

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            files = [b64decode(instance["b64"]) for instance in body["instances"]]
            answer = served[body["signature_name"]](image_bytes=tf.constant(files))
            rows = [
                {
                    "probabilities": p.tolist(),
                    "label": label.decode(),
                    "valid": bool(valid),
                }
                for p, label, valid in zip(
                    *(answer[k].numpy() for k in ("probabilities", "label", "valid")), strict=True
                )
            ]
            payload = json.dumps({"predictions": rows}).encode()
            self.send_response(200 if self.path == "/v1/models/photos:predict" else 404)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        curl = next(text for kind, text in BLOCKS if kind == "bash" and "curl" in text)
        curl = curl.replace("localhost:8501", f"127.0.0.1:{server.server_port}")
        done = subprocess.run(
            ["bash", "-c", curl], cwd=workplace, capture_output=True, text=True, check=False
        )
    finally:
        server.shutdown()
    (row,) = json.loads(done.stdout)["predictions"]
    assert row["valid"] and sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)
