"""What passes a check fits its file, leads nowhere outside it, and was read to its end."""

import errno
import os
import shutil
import zipfile

import h5py
import numpy as np
import pytest
from hostile import KINDS, reason_of, write_hostile

from tfinetune.errors import BackboneError, StorageError, UnsafeModelError
from tfinetune.security.containers import examine_model

# These hang or exhaust memory, or are refused when the config is audited.
_NOT_HERE = ("hanging heap", "many lists", "lambda", "unknown", "function", "units", "vocabulary")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not any(k in kind for k in _NOT_HERE)])
def test_hostile_containers_are_refused(kind, h5_file, keras_file):
    path = write_hostile(kind, h5_file, keras_file)
    with pytest.raises(BackboneError, match=reason_of(kind)):
        examine_model(path)


def test_chunked_weights_are_read_to_their_end(h5_file):
    with h5py.File(h5_file, "r+") as file:
        noise = np.random.default_rng(0).normal(size=4096)
        chunk = file.create_dataset("a", data=noise, compression="gzip").id.get_chunk_info(0)
    with h5_file.open("r+b") as file:
        file.seek(chunk.byte_offset + 100)
        file.write(b"\0" * 100)
    with pytest.raises(BackboneError, match="is damaged: .*Download or save it again"):
        examine_model(h5_file)


def test_a_wide_model_that_calls_each_layer_once_is_no_bomb(edit_keras):
    def widen(config):
        layers = config["config"]["layers"]
        layers.extend([layers[1]] * 5_000)

    assert examine_model(edit_keras(widen))["container"] == "zip"


@pytest.mark.parametrize("nodes", [None, 3, {}, []])
def test_calls_of_any_dialect_are_counted(edit_keras, nodes):
    def change(config):
        config["config"]["layers"][1]["inbound_nodes"] = nodes

    assert examine_model(edit_keras(change))["container"] == "zip"


def test_encrypted_members_are_refused(keras_file):
    content = bytearray(keras_file.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    keras_file.write_bytes(content)
    with pytest.raises(UnsafeModelError, match="an encrypted member"):
        examine_model(keras_file)


def test_deflated_archive_is_read_like_a_stored_one(keras_file, tmp_path):
    deflated = tmp_path / "deflated.keras"
    with (
        zipfile.ZipFile(keras_file) as source,
        zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.namelist():
            target.writestr(member, source.read(member))
    assert examine_model(deflated) == examine_model(keras_file)


def test_weights_in_an_archive_are_read_in_one_pass(keras_file, monkeypatch):
    """Going back in a member reads it again from its start, once for each data set."""

    def refuse(*args):
        raise AssertionError("went back in the archive")

    monkeypatch.setattr(zipfile.ZipExtFile, "seek", refuse)
    assert examine_model(keras_file)["container"] == "zip"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
def test_a_full_temporary_folder_is_not_called_damage(code, keras_file, monkeypatch):
    def full(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(StorageError, match=f"unpacked in .*: {os.strerror(code)}.*TMPDIR"):
        examine_model(keras_file)


def test_a_zip_with_its_weights_at_a_round_offset_is_a_zip(keras_file, tmp_path):
    """HDF5 looks for itself at 512, 1024, 2048, …, where the weights in a zip may begin."""
    path = tmp_path / "aligned.keras"
    with zipfile.ZipFile(keras_file) as source, zipfile.ZipFile(path, "w") as target:
        for name in ("metadata.json", "config.json"):
            target.writestr(name, source.read(name))
        offset = 2 ** (target.fp.tell() + 200).bit_length()
        header = 30 + len("model.weights.h5")
        target.writestr("pad", b" " * (offset - header - 30 - len("pad") - target.fp.tell()))
        target.writestr("model.weights.h5", source.read("model.weights.h5"))
    assert h5py.is_hdf5(path)
    assert examine_model(path)["container"] == "zip"
