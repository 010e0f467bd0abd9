"""Rewrite reference variables of TensorFlow 1 as resource variables, which can be trained.

Works on the graph alone. A reference may be handed to any operation; a resource is read first. So
every use but the assignment of its initial or stored value becomes a read.
"""

from pathlib import Path

from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.framework.variable_pb2 import VariableDef
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

from tfinetune.errors import BackboneError

_REFERENCE_OPERATIONS = ("VariableV2", "Variable")
_READ_SUFFIX = "/resource_read"


def use_resource_variables(meta_graph: MetaGraphDef, path: Path) -> None:
    """Rewrite the reference variables of `meta_graph` in place.

    Raises:
        BackboneError: if the graph changes one while it computes, as a counter does.
    """
    nodes = meta_graph.graph_def.node
    references = {node.name: node for node in nodes if node.op in _REFERENCE_OPERATIONS}
    if not references:
        return
    reads = [_as_resource(node) for node in references.values()]
    for node in nodes:
        node.attr.pop("_output_shapes", None)  # A handle has not the shape of its variable.
        for position, tensor in enumerate(node.input):
            name = tensor.partition(":")[0]
            if name not in references:
                continue
            if node.op == "Assign" and position == 0:
                _as_resource_assignment(node)
            elif node.op.startswith(("Assign", "Scatter", "Apply", "CountUpTo")):
                raise BackboneError(
                    f"{path} holds the TensorFlow 1 reference variable {name!r}, which its graph "
                    f"changes while it computes ({node.op} {node.name!r}), as a counter does. "
                    "That is no feature extractor, and TensorFlow 2 cannot run it."
                )
            else:
                node.input[position] = f"{name}{_READ_SUFFIX}"
    nodes.extend(reads)
    for collection in meta_graph.collection_def.values():
        for position, serialized in enumerate(collection.bytes_list.value):
            definition = VariableDef.FromString(serialized)
            if definition.variable_name.partition(":")[0] in references:
                definition.is_resource = True
                collection.bytes_list.value[position] = definition.SerializeToString()


def _as_resource(node: NodeDef) -> NodeDef:
    """Turn a variable into a resource handle; return the node that reads it."""
    node.op = "VarHandleOp"
    if not node.attr["shared_name"].s:
        node.attr["shared_name"].s = node.name.encode()
    read = NodeDef(name=f"{node.name}{_READ_SUFFIX}", op="ReadVariableOp", input=[node.name])
    read.attr["dtype"].CopyFrom(node.attr["dtype"])
    return read


def _as_resource_assignment(node: NodeDef) -> None:
    node.op = "AssignVariableOp"
    node.attr["dtype"].CopyFrom(node.attr["T"])
    for attribute in ("T", "use_locking", "validate_shape", "_class"):
        node.attr.pop(attribute, None)
