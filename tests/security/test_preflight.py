"""Files are judged by their content, in a process that may hang or crash alone."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import pytest

from tfinetune.errors import BackboneError, UnsafeModelError
from tfinetune.security import preflight
from tfinetune.security.examiner import Examiner
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


@pytest.fixture
def examiner(monkeypatch):
    """Have files looked into by a process that is not started yet."""
    fresh = Examiner()
    monkeypatch.setattr(preflight, "EXAMINER", fresh)
    yield fresh
    fresh.stop()


@pytest.fixture
def python_is(tmp_path, monkeypatch):
    """Return a function that has child processes run a shell script in place of Python."""

    def write(script: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return write


def test_a_child_that_crashes_is_a_refusal(h5_file, examiner, python_is):
    python_is("kill -SEGV $$")
    with pytest.raises(UnsafeModelError, match=r"of its own crashed \(SIGSEGV\).*save it again"):
        read_model_file(h5_file)


def test_a_child_that_fails_says_its_last_words(h5_file, examiner, python_is):
    python_is("echo No module named h5py >&2; exit 3")
    with pytest.raises(UnsafeModelError, match="ended with code 3: No module named h5py"):
        read_model_file(h5_file)


def test_a_child_that_waits_forever_is_a_refusal(h5_file, examiner, python_is, monkeypatch):
    python_is("exec sleep 60")
    monkeypatch.setattr("tfinetune.security.examiner.WALL_SECONDS", 0.2)
    with pytest.raises(UnsafeModelError, match="hung for 0 s"):
        read_model_file(h5_file)


def test_a_child_that_cannot_start_is_a_backbone_error(h5_file, examiner, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(BackboneError, match="no child process can be started"):
        read_model_file(h5_file)


def test_a_fork_that_dies_takes_no_other_file_with_it(h5_file, keras_file, examiner):
    with pytest.raises(UnsafeModelError, match="ended with code 1: .*no_such_task"):
        examiner.examine("no_such_task", h5_file)
    process = examiner._process
    assert read_model_file(h5_file).container == "hdf5"
    assert read_model_file(keras_file).container == "zip"
    assert examiner._process is process


def test_a_child_that_was_killed_is_started_anew(h5_file, examiner):
    read_model_file(h5_file)
    examiner._process.kill()
    examiner._process.wait()
    assert read_model_file(h5_file).container == "hdf5"


def test_an_interrupted_answer_is_not_the_next_files(h5_file, keras_file, examiner, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(examiner, "_last_words", interrupt)
        with pytest.raises(KeyboardInterrupt):
            read_model_file(h5_file)
    assert examiner._process is None
    assert read_model_file(keras_file).container == "zip"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_of_the_parent_has_a_child_of_its_own(h5_file, keras_file):
    code = (
        "import os, sys\n"
        "from tfinetune.security.preflight import EXAMINER, read_model_file\n"
        "h5, zipped = sys.argv[1:]\n"
        "read_model_file(h5)\n"
        "fork = os.fork()\n"
        "assert EXAMINER._process is None or fork\n"
        "kind = read_model_file(zipped if fork else h5).container\n"
        "EXAMINER.stop()\n"
        "assert kind == ('zip' if fork else 'hdf5')\n"
        "os._exit(os.waitpid(fork, 0)[1] if fork else 0)\n"
    )
    command = [sys.executable, "-c", code, h5_file, keras_file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_threads_get_their_own_answers(h5_file, keras_file):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read_model_file, [h5_file, keras_file] * 16))
    assert [file.container for file in found] == ["hdf5", "zip"] * 16


def test_a_relative_path_starts_from_the_folder_of_now(h5_file, tmp_path, examiner, monkeypatch):
    examiner.start()
    monkeypatch.chdir(tmp_path)
    assert read_model_file(h5_file.name).container == "hdf5"


def test_code_in_the_working_directory_is_not_run(h5_file, tmp_path, examiner, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert read_model_file(h5_file).container == "hdf5"
