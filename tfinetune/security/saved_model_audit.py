"""Find what a SavedModel's graph could do besides computing: read, write, execute, call out.

A graph is a program: loading a SavedModel runs its initializers, calling it runs the rest. Saving
and restoring the model's own variables is allowed in the saver, which is given its path by the
loader, and nowhere else. A lookup table may be filled from an asset of the model only.
"""

import re
from collections.abc import Iterator

from tensorflow.core.framework.function_pb2 import FunctionDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf.meta_graph_pb2 import AssetFileDef, MetaGraphDef

_FORBIDDEN = re.compile(
    r"""
      (Read|Write)File | MatchingFiles | DeleteFile.*          # files
    | (TextLine|TFRecord|WholeFile|FixedLengthRecord|LMDB|Identity)Reader(V2)?
    | (TextLine|TFRecord|FixedLengthRecord|CSV|Sql|LMDB|MatchingFiles)Dataset(V2)?
    | (Experimental)?(CSV|Sql|LMDB|MatchingFiles)Dataset(V2)?
    | (Snapshot|SnapshotNested|Load|Save|ListSnapshotChunks|Distributed)\w*Dataset\w*
    | \w*(DatasetToTFRecord|DataService|DatasetFromGraph)\w*
    | DistributedSave | FileSystemSetConfiguration
    | GenerateVocabRemapping | LoadAndRemapMatrix | InitializeTRTResource
    | (Eager)?PyFunc(Stateless)? | LoadLibrary | RemoteCall | Rpc\w+ | Abort   # code, processes
    | Copy(Host)?                                              # attach debug operations
    | Debug(Identity|Gradient|NanCount|NumericSummary)\w*      # sends tensors to URLs
    | \w*Summary(File|Db)?Writer\w* | (Write\w*Summary) | ImportEvent
    """,
    re.VERBOSE,
)
_CHECKPOINT = re.compile(r"(Save|Restore)(V2|Slices?)?|MergeV2Checkpoints")
_WRITES_CHECKPOINT = re.compile(r"Save(V2|Slices)?|MergeV2Checkpoints")
_TEXT_FILE_TABLE = re.compile(r"InitializeTableFromTextFile(V2)?")
_CACHE = re.compile(r"CacheDataset(V2)?")
_PROTOBUF = re.compile(r"(De|En)codeProto(V2)?")


def all_nodes(meta_graph: MetaGraphDef) -> Iterator[NodeDef]:
    """Yield every node of the graph and of its functions."""
    yield from meta_graph.graph_def.node
    for function in meta_graph.graph_def.library.function:
        yield from function.node_def


def assets_of(meta_graph: MetaGraphDef) -> list[AssetFileDef]:
    """Return the assets; before TensorFlow 1.14 they were in a collection."""
    assets = [*meta_graph.asset_file_def]
    if "saved_model_assets" in meta_graph.collection_def:
        for item in meta_graph.collection_def["saved_model_assets"].any_list.value:
            assets.append(AssetFileDef.FromString(item.value))
    return assets


def forbidden_operations(meta_graph: MetaGraphDef) -> list[str]:
    """Return the names of operations that a model has no business with, with their argument."""
    found: dict[str, None] = {}
    for node in all_nodes(meta_graph):
        if _FORBIDDEN.fullmatch(node.op):
            found[node.op] = None
        elif node.op == "PrintV2" and _text(node, "output_stream").startswith("file:"):
            found[f"PrintV2 to {_text(node, 'output_stream')}"] = None
        elif _PROTOBUF.fullmatch(node.op) and not _text(node, "descriptor_source").startswith(
            ("local:", "bytes:")
        ):
            found[f"{node.op} from {_text(node, 'descriptor_source')}"] = None
    calls = _Calls(meta_graph)
    for name, node in calls.running():
        if _CHECKPOINT.fullmatch(node.op):
            found[f"{node.op} outside the saver"] = None
        elif _TEXT_FILE_TABLE.fullmatch(node.op) and not calls.is_asset(name, node.input[1]):
            found[f"{node.op} from outside the assets"] = None
        elif _CACHE.fullmatch(node.op) and not calls.is_constant(name, node.input[1], b""):
            found[f"{node.op} to a file"] = None
    for _, node in calls.restoring():
        if _WRITES_CHECKPOINT.fullmatch(node.op):
            found[f"{node.op} while it is restored"] = None
    return list(found)


def _text(node: NodeDef, attribute: str) -> str:
    # Indexing a protobuf map would add the key.
    return node.attr[attribute].s.decode("utf-8", "replace") if attribute in node.attr else ""


class _Calls:
    """The nodes by function, "" being the graph itself, and who calls which function."""

    def __init__(self, meta_graph: MetaGraphDef) -> None:
        self._meta_graph = meta_graph
        self._functions: dict[str, FunctionDef] = {
            function.signature.name: function for function in meta_graph.graph_def.library.function
        }
        self._nodes = {
            name: {node.name: node for node in function.node_def}
            for name, function in self._functions.items()
        }
        # Where there are objects, TensorFlow 2 runs their functions and never the graph itself.
        runs_graph = not meta_graph.object_graph_def.nodes
        self._nodes[""] = {node.name: node for node in meta_graph.graph_def.node if runs_graph}
        self._callers: dict[str, list[tuple[str, NodeDef]]] = {}
        for caller, nodes in self._nodes.items():
            for node in nodes.values():
                for callee in _called(node):
                    self._callers.setdefault(callee, []).append((caller, node))
        self._assets = {_producer(asset.tensor_info.name) for asset in assets_of(meta_graph)}

    def running(self) -> Iterator[tuple[str, NodeDef]]:
        """Yield `(function, node)` of all that runs when the model is made ready or called."""
        exported = self._meta_graph.object_graph_def.concrete_functions
        return self._reached(
            [*(("", name) for name in self._graph_roots()), *((name, "") for name in exported)]
        )

    def restoring(self) -> Iterator[tuple[str, NodeDef]]:
        """Yield `(function, node)` of all that runs when TensorFlow 1 restores the variables."""
        return self._reached([("", self._meta_graph.saver_def.restore_op_name)])

    def _reached(self, pending: list[tuple[str, str]]) -> Iterator[tuple[str, NodeDef]]:
        """Yield what `pending` computes from; a function without a node stands for all of it."""
        seen: set[tuple[str, str]] = set()
        while pending:
            function, name = item = pending.pop()
            if item in seen:
                continue
            seen.add(item)
            nodes = self._nodes.get(function, {})
            if not name:
                pending += [(function, node) for node in nodes]
            elif node := nodes.get(name):
                yield function, node
                pending += [(callee, "") for callee in _called(node)]
                pending += [(function, _producer(tensor)) for tensor in node.input]

    def is_asset(self, function: str, tensor: str) -> bool:
        """Return whether a tensor can be nothing but the path of an asset."""
        return self._is(function, tensor, lambda node: node.name in self._assets, set())

    def is_constant(self, function: str, tensor: str, value: bytes) -> bool:
        """Return whether a tensor is the constant string `value`."""
        node = self._nodes[function].get(_producer(tensor))
        return (
            node is not None
            and node.op == "Const"
            and "value" in node.attr
            and [*node.attr["value"].tensor.string_val] in ([value], [])
            and not node.attr["value"].tensor.tensor_content
        )

    def _is(self, function: str, tensor: str, accepts: object, seen: set) -> bool:
        name = _producer(tensor)
        if (function, name) in seen:
            return True
        seen.add((function, name))
        node = self._nodes[function].get(name)
        if node is not None and node.op == "Identity":
            return self._is(function, node.input[0], accepts, seen)
        if node is not None:
            return function == "" and accepts(node)
        definition = self._functions.get(function)
        names = [argument.name for argument in definition.signature.input_arg] if definition else []
        if name not in names:
            return False
        position = names.index(name)
        return all(
            position < len(call.input) and self._is(caller, call.input[position], accepts, seen)
            for caller, call in self._callers.get(function, ())
        ) and self._bound_to_assets(function, position - len(names))

    def _bound_to_assets(self, function: str, position_from_end: int) -> bool:
        """Return whether the object graph, if it exports a function, binds an asset there."""
        graph = self._meta_graph.object_graph_def
        if function not in graph.concrete_functions:
            return True
        bound = graph.concrete_functions[function].bound_inputs
        if -position_from_end > len(bound):
            return False
        return graph.nodes[bound[position_from_end]].HasField("asset")

    def _graph_roots(self) -> Iterator[str]:
        for signature in self._meta_graph.signature_def.values():
            for tensor in (*signature.outputs.values(), *signature.inputs.values()):
                yield _producer(tensor.name)
        for name in ("saved_model_main_op", "legacy_init_op", "main_op", "table_initializer"):
            if name in self._meta_graph.collection_def:
                for node in self._meta_graph.collection_def[name].node_list.value:
                    yield _producer(node)


def _called(node: NodeDef) -> Iterator[str]:
    for attribute in node.attr.values():
        if attribute.HasField("func"):
            yield attribute.func.name
        for function in attribute.list.func:
            yield function.name


def _producer(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]
