"""Load a checked SavedModel, whatever TensorFlow wrote it, onto variables of the caller's.

TensorFlow 1 graphs are written again as TensorFlow 2 objects first, so that there is one kind of
SavedModel from here on.
"""

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.ops.resource_variable_ops import UninitializedVariable

from tfinetune.security.saved_model import (
    GRAPH_FILE,
    SavedModelFolder,
    damage_explained,
    read_saved_model,
)
from tfinetune.security.saved_model_v1 import use_resource_variables

# What TensorFlow keeps among the signatures for itself: `__saved_model_init_op`.
INTERNAL_PREFIX = "__saved_model"
_CONTENT = (GRAPH_FILE, "variables", "assets", "assets.extra")


@dataclass(frozen=True)
class PreparedSavedModel:
    """A private copy of a SavedModel that TensorFlow loads: one graph of named variables.

    Attributes:
        meta_graph: its graph; every variable has a name of its own.
        source: where it comes from.
        folder: where it lies, as long as this object lives.
    """

    meta_graph: MetaGraphDef
    source: Path
    folder: tempfile.TemporaryDirectory

    def save_to(self, path: str | Path) -> None:
        """Copy the SavedModel to `path`."""
        shutil.copytree(self.folder.name, path, dirs_exist_ok=True)


@contextlib.contextmanager
def load_stored(saved: SavedModelFolder) -> Iterator[Any]:
    """Load a checked SavedModel as it was stored, with variables of its own, for the block.

    Raises:
        BackboneError: if TensorFlow cannot load it.
    """
    with contextlib.ExitStack() as stack:
        with damage_explained(saved.path):
            folder = stack.enter_context(_copy(saved.path, _loadable(saved)))
            loaded = _load(folder)
        yield loaded


def prepare(saved: SavedModelFolder) -> PreparedSavedModel:
    """Copy a checked SavedModel, so that its variables can be replaced by name.

    Raises:
        BackboneError: if a TensorFlow 1 graph cannot be written as TensorFlow 2.
    """
    with damage_explained(saved.path):
        if not saved.has_objects:
            with load_stored(saved) as loaded, _temporary_folder() as rewritten:
                _save_as_objects(loaded, rewritten)
                return replace(prepare(read_saved_model(rewritten)), source=saved.path)
        meta_graph = _loadable(saved)
        names: set[str] = set()
        for index, node in enumerate(meta_graph.object_graph_def.nodes):
            if node.HasField("variable"):
                name = node.variable.name or f"variable_{index}"
                node.variable.name = name if name not in names else f"{name}_{index}"
                names.add(node.variable.name)
        return PreparedSavedModel(meta_graph, saved.path, _copy(saved.path, meta_graph))


def load_graph(prepared: PreparedSavedModel, variables: Mapping[str, tf.Variable]) -> Any:
    """Load a prepared SavedModel, using `variables` in place of its own of the same names.

    The stored values are written into them.

    Raises:
        BackboneError: if TensorFlow cannot load it.
    """

    def create(next_creator: Any, **arguments: Any) -> tf.Variable:
        known = variables.get(arguments.get("name"))
        return UninitializedVariable(**arguments) if known is None else known

    with damage_explained(prepared.source), tf.variable_creator_scope(create):
        return _load(prepared.folder.name)


def _load(path: str) -> Any:
    with _without_warnings():
        return tf.saved_model.load(path)


def _save_as_objects(loaded: Any, path: str) -> None:
    """Write what was loaded from a TensorFlow 1 graph as TensorFlow 2 does."""
    signatures = {
        name: function
        for name, function in loaded.signatures.items()
        if not name.startswith(INTERNAL_PREFIX)
    }
    tf.saved_model.save(loaded, path, signatures=signatures)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep TensorFlow from listing every optimizer slot that was not restored."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _copy(path: Path, meta_graph: MetaGraphDef) -> tempfile.TemporaryDirectory:
    folder = _temporary_folder()
    for name in _CONTENT:
        if (path / name).is_dir():
            shutil.copytree(path / name, Path(folder.name, name))
    saved = SavedModel(saved_model_schema_version=1, meta_graphs=[meta_graph])
    Path(folder.name, GRAPH_FILE).write_bytes(saved.SerializeToString())
    return folder


def _loadable(saved: SavedModelFolder) -> MetaGraphDef:
    """Return the graph without what TensorFlow stumbles over."""
    meta_graph = MetaGraphDef()
    meta_graph.CopyFrom(saved.meta_graph)
    if not saved.has_objects:
        use_resource_variables(meta_graph, saved.path)
    for node in meta_graph.object_graph_def.nodes:
        # TensorFlow asks an optimizer for its slots, which no loaded object has.
        del node.slot_variables[:]
    return meta_graph


def _temporary_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="tfinetune-")
