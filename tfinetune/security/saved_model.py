"""Read a SavedModel folder without loading it: bound its sizes, choose its graph, audit it.

What passes is a folder without links out of it, whose graph declares no more numbers than its data
files hold and has no operation that reads, writes or executes anything outside the model.
"""

import contextlib
import contextvars
import math
import stat
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework.tensor_shape_pb2 import TensorShapeProto
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tfinetune.errors import BackboneError, TfinetuneError, UnsafeModelError
from tfinetune.security.saved_model_audit import all_nodes, assets_of, forbidden_operations

GRAPH_FILE = "saved_model.pb"
MAX_GRAPH_BYTES = 256 * 2**20
MAX_CONFIG_BYTES = 64 * 2**20
MAX_FILES = 10_000
MAX_EMBEDDED = 16
# Counters and what else is declared but not stored.
SLACK_BYTES = 16 * 2**20
VARIABLE_OPERATIONS = ("VarHandleOp", "VariableV2", "Variable")
_DEFAULT_TAGS = (frozenset({"serve"}), frozenset())

_trusting = contextvars.ContextVar("trusting", default=False)


@dataclass(frozen=True)
class SavedModelFolder:
    """A SavedModel that was checked, and the one of its graphs that was chosen."""

    path: Path
    meta_graph: MetaGraphDef

    @property
    def tensorflow_version(self) -> str:
        """The TensorFlow that wrote it."""
        return self.meta_graph.meta_info_def.tensorflow_version or "unknown"

    @property
    def has_objects(self) -> bool:
        """Whether TensorFlow 2 wrote it: functions and variables as objects, not one graph."""
        return len(self.meta_graph.object_graph_def.nodes) > 0


@contextlib.contextmanager
def trusting(trust: bool) -> Iterator[None]:
    """Where `trust`, let SavedModels that are opened inside do whatever they like.

    Whether to trust is for the caller to say, each time: nothing that is read from a file, neither
    recipe nor run, may decide it. Inside a block that trusts, one that does not changes nothing.
    """
    token = _trusting.set(trust or _trusting.get())
    try:
        yield
    finally:
        _trusting.reset(token)


def is_trusting() -> bool:
    """Return whether the caller is inside a block that trusts."""
    return _trusting.get()


@contextlib.contextmanager
def damage_explained(path: Path) -> Iterator[None]:
    """Raise as a BackboneError what protobuf, TensorFlow and Keras say of a damaged SavedModel."""
    try:
        yield
    except (TfinetuneError, MemoryError):
        raise
    except Exception as error:
        message = " ".join(str(error).split())[:300] or type(error).__name__
        raise BackboneError(f"The SavedModel {path} cannot be used: {message}") from error


def find_saved_model(path: str | Path) -> Path | None:
    """Return the folder of the SavedModel in `path`: itself, or its highest numbered version."""
    path = Path(path)
    if (path / GRAPH_FILE).is_file():
        return path
    versions = [
        file.parent for file in path.glob(f"*/{GRAPH_FILE}") if file.parent.name.isdecimal()
    ]
    return max(versions, key=lambda folder: int(folder.name), default=None)


def read_saved_model(
    path: str | Path, *, tags: str | Iterable[str] | None = None
) -> SavedModelFolder:
    """Check the SavedModel in the folder `path` and read the graph to use.

    Args:
        path: folder that holds `saved_model.pb`.
        tags: of the graph, where there are several; default: "serve", else none.

    Raises:
        UnsafeModelError: for links out of the folder, sizes that its files do not account for, and
            operations that read, write or execute; all of these are named. Inside `trusting(True)`
            operations are not looked at.
        BackboneError: if it is damaged, or `tags` name no graph of it.
    """
    path = Path(path)
    with damage_explained(path):
        data_bytes = _check_files(path)
        meta_graph = _choose(_parse(path / GRAPH_FILE), tags, path)
        _check_assets(meta_graph, path)
        _check_constants(meta_graph, path)
        _check_variables(meta_graph, path, data_bytes)
        forbidden = [] if _trusting.get() else forbidden_operations(meta_graph)
    if forbidden:
        raise UnsafeModelError(
            f"The graph of {path} holds {', '.join(forbidden)}: operations that read, write or "
            "execute something outside the model. It was refused before it was loaded. Pass "
            "trust=True (--trust) if you know who made it and why."
        )
    return SavedModelFolder(path, meta_graph)


def _check_files(path: Path) -> int:
    """Refuse links and too many files; return the bytes of the data files."""
    data_bytes = 0
    for count, item in enumerate(path.rglob("*"), start=1):
        status = item.lstat()
        if count > MAX_FILES:
            raise UnsafeModelError(f"{path} holds more than {MAX_FILES:,} files; it was refused.")
        if stat.S_ISLNK(status.st_mode) and not item.resolve().is_relative_to(path.resolve()):
            raise UnsafeModelError(
                f"{path} links {item.relative_to(path)} to another place. A SavedModel must be "
                "self-contained; it was refused."
            )
        if item.name.startswith("variables.data-"):
            data_bytes += item.stat().st_size
    return data_bytes


def check_embedded(archive_path: Path) -> None:
    """Check the SavedModels inside a `.keras` file, which was found to be a sound archive.

    Keras would report a refusal while it loads them as something else.

    Raises:
        UnsafeModelError: as `read_saved_model`.
        BackboneError: if one is damaged.
    """
    with zipfile.ZipFile(archive_path) as archive:
        names = archive.namelist()
        folders = [n.removesuffix(f"/{GRAPH_FILE}") for n in names if n.endswith(f"/{GRAPH_FILE}")]
        if len(folders) > MAX_EMBEDDED:
            raise UnsafeModelError(
                f"{archive_path} holds {len(folders)} SavedModels (at most {MAX_EMBEDDED} are "
                "allowed); it was refused."
            )
        for folder in folders:
            with tempfile.TemporaryDirectory() as unpacked:
                archive.extractall(unpacked, [n for n in names if n.startswith(f"{folder}/")])
                read_saved_model(Path(unpacked, folder))


def read_bounded(file: Path, max_bytes: int) -> bytes:
    """Read a file of a SavedModel.

    Raises:
        UnsafeModelError: if it is larger than `max_bytes`.
    """
    size = file.stat().st_size
    if size > max_bytes:
        raise UnsafeModelError(
            f"{file} has {size:,} bytes (at most {max_bytes:,} are allowed); it was refused unread."
        )
    return file.read_bytes()


def _parse(file: Path) -> SavedModel:
    saved = SavedModel()
    try:
        saved.ParseFromString(read_bounded(file, MAX_GRAPH_BYTES))
    except DecodeError:
        raise BackboneError(f"{file} is damaged. Download or save the model again.") from None
    if not saved.meta_graphs:
        raise BackboneError(f"{file} holds no graph. Download or save the model again.")
    return saved


def _choose(saved: SavedModel, tags: str | Iterable[str] | None, path: Path) -> MetaGraphDef:
    by_tags = {frozenset(graph.meta_info_def.tags): graph for graph in saved.meta_graphs}
    if tags is not None:
        wanted = frozenset([tags] if isinstance(tags, str) else tags)
    elif len(by_tags) == 1:
        (wanted,) = by_tags
    else:
        wanted = next((tags for tags in _DEFAULT_TAGS if tags in by_tags), None)
    if wanted not in by_tags:
        asked = "none was named" if tags is None else f"tags={sorted(wanted)} was asked for"
        raise BackboneError(
            f"{path} holds graphs with the tags {', '.join(str(sorted(t)) for t in by_tags)}; "
            f"{asked}. Pass tags= with one of these."
        )
    return by_tags[wanted]


def _check_assets(meta_graph: MetaGraphDef, path: Path) -> None:
    for asset in assets_of(meta_graph):
        name = PurePosixPath(asset.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in asset.filename:
            raise UnsafeModelError(
                f"{path} names the asset {asset.filename!r}, which lies outside its assets folder; "
                "it was refused."
            )


def _check_constants(meta_graph: MetaGraphDef, path: Path) -> None:
    """Bound the constants: a shape of a few bytes may repeat one value a billion times."""
    allowed = 2 * meta_graph.ByteSize() + 4 * SLACK_BYTES
    total = 0
    for node in all_nodes(meta_graph):
        for attribute in node.attr.values():
            if attribute.HasField("tensor"):
                total += _tensor_bytes(attribute.tensor.tensor_shape, attribute.tensor.dtype)
    if total > allowed:
        raise UnsafeModelError(
            f"{path} declares constants of {total:,} bytes (at most {allowed:,} are allowed for a "
            "graph of its size). It would exhaust memory and was refused."
        )


def _check_variables(meta_graph: MetaGraphDef, path: Path, data_bytes: int) -> None:
    declared = sum(
        _tensor_bytes(node.variable.shape, node.variable.dtype)
        for node in meta_graph.object_graph_def.nodes
        if node.HasField("variable")
    )
    declared += sum(
        _tensor_bytes(node.attr["shape"].shape, node.attr["dtype"].type)
        for node in meta_graph.graph_def.node
        if node.op in VARIABLE_OPERATIONS and not meta_graph.object_graph_def.nodes
    )
    allowed = data_bytes + SLACK_BYTES
    if declared > allowed:
        raise UnsafeModelError(
            f"{path} declares variables of {declared:,} bytes; its data files hold {data_bytes:,}. "
            "It is damaged, or made to exhaust memory."
        )


def _tensor_bytes(shape: TensorShapeProto, dtype: int) -> int:
    sizes = [max(dimension.size, 0) for dimension in shape.dim]
    try:
        return math.prod(sizes) * max(tf.dtypes.as_dtype(dtype).size or 1, 1)
    except TypeError as error:
        raise BackboneError(f"A tensor has an unknown type ({error}).") from error
