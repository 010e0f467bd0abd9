"""Model files that mean harm, one writer for each kind, and what must be said of each.

Every writer damages a sound `.h5` or `.keras` file in place; its reason is a pattern of the
refusal.
"""

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

H5: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "unallocated bomb": (
        lambda file: file.create_dataset("bomb", (2**29,), "f4", chunks=(2**16,)),
        "would exhaust memory",
    ),
    "compressed bomb": (
        lambda file: file.create_dataset("bomb", data=np.zeros(2**23, "f4"), compression="gzip"),
        "would exhaust memory",
    ),
    "immense data set": (
        lambda file: file.create_dataset("bomb", (2**40,), "f8", chunks=(2**16,)),
        "would exhaust memory",
    ),
    "external link": (
        lambda file: file.__setitem__("elsewhere", h5py.ExternalLink("/etc/passwd", "x")),
        "links 'elsewhere' to another place",
    ),
    "soft link": (
        lambda file: file["model_weights"].__setitem__(
            "elsewhere", h5py.SoftLink("/model_weights")
        ),
        "links 'model_weights/elsewhere' to another place",
    ),
    "external storage": (
        lambda file: file.create_dataset("raw", (4,), "f4", external=[("/etc/passwd", 0, 16)]),
        "in another file",
    ),
    "virtual data set": (lambda file: _virtual(file), "in another file"),
    "cycle of groups": (
        lambda file: file["model_weights"].__setitem__("again", file["model_weights"]),
        "one object under two names",
    ),
    "data set under many names": (lambda file: _many_names(file), "one object under two names"),
    "names with detours": (
        lambda file: file["model_weights"].attrs.__setitem__(
            "layer_names", [b"/".join([b"."] * n + [b"conv"]) for n in range(9)]
        ),
        "a path with detours",
    ),
    "texts of any length": (
        lambda file: file.create_dataset("texts", data=["a" * 1000] * 9, dtype=h5py.string_dtype()),
        "references or texts of any length",
    ),
    "many objects": (lambda file: _many_groups(file), "more than 20,000 objects"),
    "hanging heap": (lambda file: None, "processor time"),
    "config of many lists": (
        lambda file: file.attrs.__setitem__("model_config", "[" + "[]," * 2**23 + "1]"),
        "ran out of memory|processor time",
    ),
    "no JSON": (
        lambda file: file.attrs.__setitem__("model_config", "cos\nsystem\n(S'true'\ntR."),
        "its config is not JSON",
    ),
}

CONFIG: dict[str, tuple[Callable[[list], Any], str]] = {
    "lambda": (
        lambda layers: layers[1].update(class_name="Lambda", registered_name="Lambda"),
        "uses Lambda, which can run code",
    ),
    "unknown class": (
        lambda layers: layers[1].update(class_name="Evil", registered_name="Evil", module="evil"),
        "needs a class that Keras does not have: Evil",
    ),
    "function of another module": (
        lambda layers: layers[1]["config"].update(
            activation={
                "module": "os",
                "class_name": "function",
                "config": "system",
                "registered_name": "system",
            }
        ),
        "system",
    ),
    "huge units": (
        lambda layers: layers[-1]["config"].update(units=10**9),
        "more parameters than the .* values it stores",
    ),
    "immense window": (
        lambda layers: layers[1].update(
            class_name="STFTSpectrogram",
            config={"fft_length": 2**26, "frame_length": 2**25, "frame_step": 4},
        ),
        "fft_length=67,108,864",
    ),
    "vocabulary file": (
        lambda layers: layers[1].update(
            class_name="StringLookup", config={"vocabulary": "/etc/passwd"}
        ),
        "reads the vocabulary file '/etc/passwd'",
    ),
    "nested lists": (
        lambda layers: layers[1]["config"].update(name=_nested([], 900, lambda inner: [inner])),
        "too deeply",
    ),
    "doubling models": (
        lambda layers: layers.append(_nested(layers[-1], 40, _called_twice)),
        "layer calls",
    ),
}

ZIP: dict[str, tuple[Callable[[zipfile.ZipFile], Any], str]] = {
    "parent folder": (lambda file: file.writestr("../evil.py", b"evil"), "outside its folder"),
    "absolute path": (lambda file: file.writestr("/etc/evil", b"evil"), "outside its folder"),
    "hidden parent": (
        lambda file: file.writestr("assets/../../evil", b"evil"),
        "outside its folder",
    ),
    "backslashes": (lambda file: file.writestr("a\\..\\evil", b"evil"), "outside its folder"),
    "symbolic link": (lambda file: file.writestr(_link(), "/etc/passwd"), "symbolic link"),
    "zip bomb": (
        lambda file: file.writestr("assets/zeros", b"\0" * 2**26, zipfile.ZIP_DEFLATED),
        "a zip bomb, refused",
    ),
    "duplicate": (lambda file: _duplicate(file), "'config.json' twice"),
    "pickle": (lambda file: file.writestr("data.pkl", b"\x80\x02."), "Python pickle"),
    "foreign compression": (
        lambda file: file.writestr("assets/a.txt", b"a" * 99, zipfile.ZIP_LZMA),
        "compressed by method 14",
    ),
    "many members": (lambda file: _many_members(file), "10,0.. members"),
    "immense config": (
        lambda file: file.writestr("big.json", b" " * (2**26 + 1), zipfile.ZIP_STORED),
        "holds big.json of 67,108,865 bytes",
    ),
}


def reason_of(kind: str) -> str:
    """Return a pattern of what is said of a kind of file, named "h5: …", "keras: …" or "zip: …"."""
    container, _, name = kind.partition(": ")
    return (ZIP if container == "zip" else H5 | CONFIG)[name][1]


def write_hostile(kind: str, h5_file: Path, keras_file: Path) -> Path:
    """Turn one of two sound files into the hostile one of that kind, and return it."""
    container, _, name = kind.partition(": ")
    if container == "zip":
        with zipfile.ZipFile(keras_file, "a") as archive:
            ZIP[name][0](archive)
        return keras_file
    if container == "keras":
        rewrite_member(keras_file, "config.json", lambda text: _changed(text, CONFIG[name][0]))
        return keras_file
    with h5py.File(h5_file, "r+") as file:
        if name in H5:
            H5[name][0](file)
        else:
            file.attrs["model_config"] = _changed(file.attrs["model_config"], CONFIG[name][0])
    if name == "hanging heap":
        _break_heap(h5_file)
    return h5_file


KINDS = [
    *(f"h5: {name}" for name in (*H5, *CONFIG)),
    *(f"keras: {name}" for name in CONFIG),
    *(f"zip: {name}" for name in ZIP),
]


def rewrite_member(path: Path, name: str, change: Callable[[bytes], bytes | str]) -> None:
    """Replace a member of a zip file by what `change` makes of it."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, change(content) if member == name else content)


def _changed(text: str | bytes, change: Callable[[list], Any]) -> str:
    config = json.loads(text)
    change(config["config"]["layers"])
    return json.dumps(config)


def _nested(value: Any, depth: int, wrap: Callable[[Any], Any]) -> Any:
    for _ in range(depth):
        value = wrap(value)
    return value


def _called_twice(layer: dict) -> dict:
    config = {"name": "m", "layers": [layer], "input_layers": [], "output_layers": []}
    node = [["a", 0, 0, {}]]
    return {
        "class_name": "Functional",
        "name": "m",
        "config": config,
        "inbound_nodes": [node, node],
    }


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    file.create_virtual_dataset("virtual", layout)


def _many_names(file: h5py.File) -> None:
    data = file.create_dataset("data", data=np.zeros(2**20, "f4"))
    for number in range(1000):
        file[f"data{number}"] = data


def _many_groups(file: h5py.File) -> None:
    for number in range(20_001):
        file.create_group(f"g{number}")


def _break_heap(path: Path) -> None:
    """Let the heap of texts hold free space of size 0: the HDF5 library steps over it forever."""
    content = bytearray(path.read_bytes())
    first_object = content.index(b"GCOL") + 16
    content[first_object : first_object + 16] = bytes(16)
    path.write_bytes(content)


def _link() -> zipfile.ZipInfo:
    link = zipfile.ZipInfo("assets/link")
    link.external_attr = 0o120777 << 16
    return link


def _duplicate(archive: zipfile.ZipFile) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("config.json", "{}")


def _many_members(archive: zipfile.ZipFile) -> None:
    for number in range(10_001):
        archive.writestr(f"a{number}", b"")
