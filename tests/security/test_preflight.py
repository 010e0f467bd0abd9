"""Files are judged by their content, and nothing hostile gets as far as being built."""

import errno
import os
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from tfinetune.errors import BackboneError, StorageError, UnsafeModelError
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
        ("saved_model.pb", r"SavedModel folder.*model\.save\('model\.keras'\)"),
        ("model.savedmodel/saved_model.pb", "holds a SavedModel folder"),
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


# --- hostile HDF5 -------------------------------------------------------------------------------


def test_hdf5_bomb_is_refused_before_it_is_read(h5_file):
    with h5py.File(h5_file, "r+") as file:
        file.create_dataset("bomb", shape=(2**31,), dtype="f4", chunks=(2**16,))
    assert h5_file.stat().st_size < 10**6
    with pytest.raises(UnsafeModelError, match="exhaust memory"):
        read_model_file(h5_file)


def test_compressed_bomb_is_refused(tmp_path):
    path = tmp_path / "bomb.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("zeros", data=np.zeros(2**24, "f4"), compression="gzip")
    with pytest.raises(UnsafeModelError, match="exhaust memory"):
        check_weights_file(path)


@pytest.mark.parametrize("link", [h5py.ExternalLink("/etc/passwd", "x"), h5py.SoftLink("/model")])
def test_hdf5_links_are_refused(h5_file, link):
    with h5py.File(h5_file, "r+") as file:
        file["model_weights"]["elsewhere"] = link
    with pytest.raises(UnsafeModelError, match=r"links 'model_weights/elsewhere'"):
        read_model_file(h5_file)


def test_hdf5_external_storage_is_refused(h5_file):
    with h5py.File(h5_file, "r+") as file:
        file.create_dataset("raw", (4,), "f4", external=[("/etc/passwd", 0, 16)])
    with pytest.raises(UnsafeModelError, match="in another file"):
        read_model_file(h5_file)


def test_hdf5_cycle_of_groups_ends(h5_file):
    with h5py.File(h5_file, "r+") as file:
        file["model_weights"]["again"] = file["model_weights"]
    assert read_model_file(h5_file).container == "hdf5"


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
    assert read_model_file(path).container == "zip"


# --- hostile zip --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../evil.py", "/etc/evil", "assets/../../evil", "a\\..\\evil"])
def test_zip_traversal_is_refused(keras_file, name):
    with zipfile.ZipFile(keras_file, "a") as archive:
        archive.writestr(name, b"evil")
    with pytest.raises(UnsafeModelError, match="outside its folder"):
        read_model_file(keras_file)


def test_zip_symlink_is_refused(keras_file):
    link = zipfile.ZipInfo("assets/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(keras_file, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UnsafeModelError, match="symbolic link 'assets/link'"):
        read_model_file(keras_file)


def test_zip_bomb_is_refused(keras_file):
    with zipfile.ZipFile(keras_file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/zeros", b"\0" * 2**27)
    with pytest.raises(UnsafeModelError, match="a zip bomb, refused"):
        read_model_file(keras_file)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_member_that_occurs_twice_is_refused(keras_file):
    with zipfile.ZipFile(keras_file, "a") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(UnsafeModelError, match=r"'config.json' twice"):
        read_model_file(keras_file)


def test_archive_with_a_pickle_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    with pytest.raises(UnsafeModelError, match="Python pickle"):
        read_model_file(path)


def test_deflated_archive_is_read_like_a_stored_one(keras_file, tmp_path):
    deflated = tmp_path / "deflated.keras"
    with (
        zipfile.ZipFile(keras_file) as source,
        zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.namelist():
            target.writestr(member, source.read(member))
    assert read_model_file(deflated).stored_elements == read_model_file(keras_file).stored_elements


def test_weights_in_an_archive_are_read_in_one_pass(keras_file, monkeypatch):
    """Going back in a member reads it again from its start, once for each data set."""

    def refuse(*args):
        raise AssertionError("went back in the archive")

    monkeypatch.setattr(zipfile.ZipExtFile, "seek", refuse)
    assert read_model_file(keras_file).container == "zip"


def test_a_full_temporary_folder_is_not_called_damage(keras_file, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(StorageError, match="no space is left in .*TMPDIR"):
        read_model_file(keras_file)


def test_config_nested_too_deeply_is_refused(edit_keras, keras_file, tmp_path):
    path = tmp_path / "deep.keras"
    with zipfile.ZipFile(keras_file) as source, zipfile.ZipFile(path, "w") as target:
        target.writestr("config.json", '{"a":' * 50_000 + "1" + "}" * 50_000)
        target.writestr("model.weights.h5", source.read("model.weights.h5"))
    with pytest.raises(UnsafeModelError, match="too deeply"):
        read_model_file(path)


def test_damage_anywhere_is_a_backbone_error(keras_file, h5_file, tmp_path):
    """Only errors of this project escape, whichever bytes are broken."""
    random = np.random.default_rng(0)
    damaged = tmp_path / "damaged"
    refused = 0
    for original in (keras_file, h5_file):
        content = original.read_bytes()
        for _ in range(100):
            broken = bytearray(content)
            for position in random.integers(0, len(broken), size=8):
                broken[position] = random.integers(256)
            damaged.write_bytes(broken[: random.integers(1, len(broken) + 1)])
            try:
                read_model_file(damaged)
            except BackboneError:
                refused += 1
    assert refused > 100


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file_is_named(keras_file: Path):
    keras_file.chmod(0)
    with pytest.raises(BackboneError, match="cannot be read: Permission denied"):
        read_model_file(keras_file)
