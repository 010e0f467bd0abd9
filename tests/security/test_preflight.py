"""Files are judged by their content, in a process that may hang or crash alone."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from tfinetune.errors import BackboneError, UnsafeModelError
from tfinetune.security import confinement
from tfinetune.security.preflight import check_weights_file, read_model_file


def test_reads_config_and_version_of_both_containers(keras_file, h5_file):
    zipped, hdf5 = read_model_file(keras_file), read_model_file(h5_file)
    assert (zipped.container, hdf5.container) == ("zip", "hdf5")
    assert zipped.major_version == hdf5.major_version == 3
    assert len(zipped.config["config"]["layers"]) == len(hdf5.config["config"]["layers"]) == 5
    stored = 3 * 3 * 3 * 4 + 4 + 4 * 4 + 4 * 2 + 2
    assert hdf5.stored_elements == stored
    assert zipped.stored_elements >= stored


def test_the_name_of_a_file_does_not_matter(keras_file, h5_file):
    swapped = keras_file.rename(keras_file.with_name("zip.h5"))
    assert read_model_file(swapped).container == "zip"
    swapped = h5_file.rename(h5_file.with_name("hdf5.keras"))
    assert read_model_file(swapped).container == "hdf5"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"hello, this is a text file", "it is a text file"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b'{"modelTopology": {}}', "TensorFlow.js"),
        (b"\x1c\x00\x00\x00TFL3" + b"\x00" * 20, "LiteRT"),
        (b"\x80\x02}q\x00.", "pickle"),
        (bytes(range(128, 256)) * 8, "neither HDF5 nor a Keras archive"),
    ],
)
def test_what_is_no_model_is_named(tmp_path, content, reason):
    path = tmp_path / "model.h5"
    path.write_bytes(content)
    with pytest.raises(BackboneError, match=reason):
        read_model_file(path)


def test_missing_file_says_what_is_allowed(tmp_path):
    with pytest.raises(BackboneError, match=r"no model at .*Allowed: a \.keras or \.h5 file"):
        read_model_file(tmp_path / "absent.keras")


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        ("saved_model.pb", "is a SavedModel folder.*load_backbone"),
        ("saved_model.pbtxt", "is a SavedModel written as text"),
        ("model.savedmodel/saved_model.pb", r"holds a SavedModel: pass .*model\.savedmodel as"),
        ("model.json", "TensorFlow.js model folder"),
        ("weights.h5", "It holds weights.h5: pass one of these"),
        ("readme.txt", "is a folder, not a model file"),
    ],
)
def test_folders_are_told_apart(tmp_path, inside, reason):
    file = tmp_path / "folder" / inside
    file.parent.mkdir(parents=True)
    file.touch()
    with pytest.raises(BackboneError, match=reason):
        read_model_file(tmp_path / "folder")


def test_weights_without_architecture_are_refused(small_model, tmp_path, h5_file):
    small_model.save_weights(tmp_path / "small.weights.h5")
    with pytest.raises(BackboneError, match="Keras 3 weights only"):
        read_model_file(tmp_path / "small.weights.h5")
    with h5py.File(h5_file, "r+") as file:
        file.attrs["layer_names"] = [b"conv"]
        del file.attrs["model_config"]
    with pytest.raises(BackboneError, match="holds weights only, without the architecture"):
        read_model_file(h5_file)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file_is_named(keras_file: Path):
    keras_file.chmod(0)
    with pytest.raises(BackboneError, match="cannot be read: Permission denied"):
        read_model_file(keras_file)


def test_weights_files_are_checked_too(small_model, tmp_path):
    small_model.save_weights(tmp_path / "small.weights.h5")
    check_weights_file(tmp_path / "small.weights.h5")
    with h5py.File(tmp_path / "small.weights.h5", "r+") as file:
        file["elsewhere"] = h5py.SoftLink("/layers")
    with pytest.raises(UnsafeModelError, match="links 'elsewhere'"):
        check_weights_file(tmp_path / "small.weights.h5")


def test_the_child_loads_neither_tensorflow_nor_keras():
    code = (
        "import sys, tfinetune.security.confinement, tfinetune.security.containers\n"
        "print([name for name in ('tensorflow', 'keras', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_child_that_crashes_is_a_refusal(h5_file, tmp_path, monkeypatch):
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crashing))
    with pytest.raises(UnsafeModelError, match=r"of its own crashed \(SIGSEGV\).*save it again"):
        read_model_file(h5_file)


def test_a_child_that_waits_forever_is_a_refusal(h5_file, monkeypatch):
    monkeypatch.setattr(confinement, "WALL_SECONDS", 0.01)
    with pytest.raises(UnsafeModelError, match="hung for 0 s"):
        read_model_file(h5_file)


def test_a_child_that_cannot_start_is_a_backbone_error(h5_file, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(BackboneError, match="no child process can be started"):
        read_model_file(h5_file)


def test_code_in_the_working_directory_is_not_run(h5_file, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert read_model_file(h5_file).container == "hdf5"
