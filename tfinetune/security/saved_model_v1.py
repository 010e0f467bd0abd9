"""Rewrite reference variables of TensorFlow 1 as resource variables, which can be trained.

Works on the graph alone. A reference may be handed to any operation: one that declares to take a
reference gets the resource's handle, and becomes its own resource form; any other gets a read.
"""

from pathlib import Path

from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.framework.variable_pb2 import VariableDef
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef
from tensorflow.python.framework import op_def_registry

from tfinetune.errors import BackboneError

_REFERENCE_OPERATIONS = ("VariableV2", "Variable")
_RESOURCE_FORM = {
    "Assign": "AssignVariableOp",
    "AssignAdd": "AssignAddVariableOp",
    "AssignSub": "AssignSubVariableOp",
    "IsVariableInitialized": "VarIsInitializedOp",
}
_READ_SUFFIX = "/resource_read"


def use_resource_variables(meta_graph: MetaGraphDef, path: Path) -> None:
    """Rewrite the reference variables of `meta_graph` in place.

    Raises:
        BackboneError: if the graph computes with the result of changing one, as a counter does.
    """
    nodes = meta_graph.graph_def.node
    references = {node.name for node in nodes if node.op in _REFERENCE_OPERATIONS}
    if not references:
        return
    changing: dict[str, str] = {}
    for node in nodes:
        node.attr.pop("_output_shapes", None)  # A handle has not the shape of its variable.
        by_reference = _inputs_by_reference(node.op)
        uses = [
            position
            for position, tensor in enumerate(node.input)
            if tensor.partition(":")[0] in references
        ]
        for position in uses:
            if position not in by_reference:
                node.input[position] = f"{node.input[position].partition(':')[0]}{_READ_SUFFIX}"
        if by_reference & set(uses):
            changing[node.name] = node.op
            _take_handle(node)
    changing = {name: op for name, op in changing.items() if op != "IsVariableInitialized"}
    computed_with = [tensor for node in nodes for tensor in node.input]
    for signature in meta_graph.signature_def.values():
        computed_with += [output.name for output in signature.outputs.values()]
    for tensor in computed_with:
        name = tensor.partition(":")[0]
        if name in changing:
            raise BackboneError(
                f"{path} computes with a TensorFlow 1 reference variable while it changes it (the "
                f"result of {changing[name]} {name!r} is used), as a counter does. That is no "
                "feature extractor, and TensorFlow 2 cannot run it."
            )
    nodes.extend([_as_resource(node) for node in nodes if node.name in references])
    for collection in meta_graph.collection_def.values():
        for position, serialized in enumerate(collection.bytes_list.value):
            definition = VariableDef.FromString(serialized)
            if definition.variable_name.partition(":")[0] in references:
                definition.is_resource = True
                collection.bytes_list.value[position] = definition.SerializeToString()


def _inputs_by_reference(operation: str) -> set[int]:
    definition = op_def_registry.get(operation)
    arguments = definition.input_arg if definition else ()
    return {position for position, argument in enumerate(arguments) if argument.is_ref}


def _take_handle(node: NodeDef) -> None:
    """Turn an operation on references into the same on resources, which has no output."""
    operation = node.op
    node.op = _RESOURCE_FORM.get(operation, f"Resource{operation}")
    if operation.startswith(("Assign", "Scatter")):
        node.attr["dtype"].CopyFrom(node.attr["T"])
    allowed = {attribute.name for attribute in op_def_registry.get(node.op).attr}
    for name in [name for name in node.attr if name not in allowed]:
        del node.attr[name]


def _as_resource(node: NodeDef) -> NodeDef:
    """Turn a variable into a resource handle; return the node that reads it."""
    node.op = "VarHandleOp"
    if not node.attr["shared_name"].s:
        node.attr["shared_name"].s = node.name.encode()
    read = NodeDef(name=f"{node.name}{_READ_SUFFIX}", op="ReadVariableOp", input=[node.name])
    read.attr["dtype"].CopyFrom(node.attr["dtype"])
    return read
