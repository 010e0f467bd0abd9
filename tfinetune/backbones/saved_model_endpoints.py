"""What a SavedModel can be called with: its functions and signatures, and the variables they read.

Read from the stored description, before anything is loaded.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.function_pb2 import FunctionDef
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, TensorInfo
from tensorflow.core.protobuf.saved_object_graph_pb2 import SavedObjectGraph
from tensorflow.python.saved_model.nested_structure_coder import decode_proto

from tfinetune.errors import BackboneError
from tfinetune.security.saved_model_loading import INTERNAL_PREFIX

# Functions before signatures: they may know training from inference.
_PREFERRED = ("__call__", "serving_default", "default")


@dataclass(frozen=True)
class Tensor:
    """What goes in or comes out: `shape` includes the batch; None where the rank is unknown."""

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str

    @classmethod
    def of(cls, name: str, spec: tf.TensorSpec) -> "Tensor":
        """Return the description of a TensorFlow specification."""
        shape = None if spec.shape.rank is None else tuple(spec.shape)
        return cls(name, shape, spec.dtype.name)

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name}: {self.dtype} of any shape"
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        return f"{self.name}: {self.dtype} [{sizes}]"


@dataclass(frozen=True)
class StoredVariable:
    """A variable as the file describes it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool


@dataclass(frozen=True)
class Endpoint:
    """One way to call a SavedModel.

    Attributes:
        name: of the function or signature.
        is_signature: signatures take tensors by name, functions one tensor.
        inputs: what it takes.
        outputs: what it answers.
        variables: what it reads, in the order in which it does.
        knows_training: whether it can be told training from inference.
        regularization_losses: how many loss functions the SavedModel brings.
    """

    name: str
    is_signature: bool
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    variables: tuple[StoredVariable, ...]
    knows_training: bool = False
    regularization_losses: int = 0

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Endpoint":
        """Return what `dataclasses.asdict` was made of, after a passage through JSON."""

        def described(kind: type, items: list[dict[str, Any]]) -> tuple:
            return tuple(
                kind(**{**item, "shape": None if item["shape"] is None else tuple(item["shape"])})
                for item in items
            )

        return cls(
            **{
                **config,
                "inputs": described(Tensor, config["inputs"]),
                "outputs": described(Tensor, config["outputs"]),
                "variables": described(StoredVariable, config["variables"]),
            }
        )

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.inputs))})"


def find_endpoints(meta_graph: MetaGraphDef) -> dict[str, Endpoint]:
    """Return the endpoints of a graph of TensorFlow 2, by name."""
    graph = meta_graph.object_graph_def
    children = _children(graph, 0)
    losses = len(_children(graph, children.get("regularization_losses", -1)))
    found = [
        _function(name, index, meta_graph)
        for name, index in children.items()
        if graph.nodes[index].HasField("function") and not name.startswith("_default")
    ]
    found += [
        _signature(name, index, meta_graph)
        for name, index in _children(graph, children.get("signatures", -1)).items()
        if name in meta_graph.signature_def and not name.startswith(INTERNAL_PREFIX)
    ]
    return {
        endpoint.name: replace(endpoint, regularization_losses=losses)
        for endpoint in found
        if endpoint is not None
    }


def choose_endpoint(
    endpoints: dict[str, Endpoint], name: str | None, features: Sequence[str], *, source: str
) -> Endpoint:
    """Return the endpoint to call, with the outputs that are used as features.

    Raises:
        BackboneError: listing the endpoints or outputs, where a choice is to be made.
    """
    if name is None:
        usual = [preferred for preferred in _PREFERRED if preferred in endpoints]
        name = usual[0] if usual else next(iter(endpoints)) if len(endpoints) == 1 else None
    if name not in endpoints:
        options = "; ".join(map(str, endpoints.values())) or "none that takes tensors"
        raise BackboneError(
            f"{source} has these endpoints: {options}. Pass endpoint= with the name of one."
        )
    endpoint = endpoints[name]
    outputs = {output.name: output for output in endpoint.outputs}
    chosen = list(features or outputs)
    if not outputs.keys() >= set(chosen) or (len(chosen) > 1 and not features):
        options = "; ".join(map(str, endpoint.outputs))
        raise BackboneError(
            f"The endpoint {endpoint.name} of {source} has these outputs: {options}. Pass "
            "features= with the names of those to use."
        )
    return replace(endpoint, outputs=tuple(outputs[name] for name in chosen))


def named(structure: Any) -> dict[str, Any]:
    """Return the leaves of what an endpoint returns, by name."""
    if isinstance(structure, dict):
        return dict(structure)
    if isinstance(structure, list | tuple):
        return {f"output_{index}": item for index, item in enumerate(structure)}
    return {"output": structure}


def _children(graph: SavedObjectGraph, index: int) -> dict[str, int]:
    if index < 0:
        return {}
    return {child.local_name: child.node_id for child in graph.nodes[index].children}


def _function(name: str, index: int, meta_graph: MetaGraphDef) -> Endpoint | None:
    """Describe a function of one tensor, which may also be told whether it trains."""
    graph = meta_graph.object_graph_def
    names = graph.nodes[index].function.concrete_functions
    stored = [graph.concrete_functions[function] for function in names]
    calls = [decode_proto(function.canonicalized_input_signature) for function in stored]
    if not calls or not all(_takes_one_tensor(call) for call in calls):
        return None
    outputs = named(decode_proto(stored[0].output_signature))
    if not outputs or not all(isinstance(spec, tf.TensorSpec) for spec in outputs.values()):
        return None
    tensor = calls[0][0][0]
    flags = {x for call in calls for x in tf.nest.flatten(call) if isinstance(x, bool)}
    return Endpoint(
        name,
        is_signature=False,
        inputs=(Tensor.of(tensor.name or "inputs", tensor),),
        outputs=tuple(Tensor.of(key, spec) for key, spec in sorted(outputs.items())),
        variables=tuple(_variables(names, meta_graph)),
        knows_training=flags == {True, False},
    )


def _takes_one_tensor(call: Any) -> bool:
    arguments, _ = call
    tensors = [x for x in tf.nest.flatten(call) if isinstance(x, tf.TensorSpec)]
    return len(tensors) == 1 and bool(arguments) and arguments[0] is tensors[0]


def _signature(name: str, index: int, meta_graph: MetaGraphDef) -> Endpoint:
    graph, definition = meta_graph.object_graph_def, meta_graph.signature_def[name]
    stored = graph.nodes[index].bare_concrete_function.concrete_function_name
    return Endpoint(
        name,
        is_signature=True,
        inputs=_tensors(definition.inputs),
        outputs=_tensors(definition.outputs),
        variables=tuple(_variables([stored], meta_graph)),
    )


def _tensors(described: Mapping[str, TensorInfo]) -> tuple[Tensor, ...]:
    # In the order of their names: a protobuf map has none.
    return tuple(
        Tensor.of(
            name,
            tf.TensorSpec(
                tf.TensorShape(described[name].tensor_shape),
                tf.dtypes.as_dtype(described[name].dtype),
            ),
        )
        for name in sorted(described)
    )


def _variables(names: Iterable[str], meta_graph: MetaGraphDef) -> Iterator[StoredVariable]:
    """Yield the variables that functions read, in the order in which they first do."""
    graph = meta_graph.object_graph_def
    library = {f.signature.name: f for f in meta_graph.graph_def.library.function}
    read: dict[int, None] = {}
    for name in names:
        bound = graph.concrete_functions[name].bound_inputs
        # What a function captured follows its arguments.
        first = len(library[name].signature.input_arg) - len(bound)
        for position, index in enumerate(bound, start=first):
            if graph.nodes[index].HasField("variable") and _uses(library, name, position):
                read[index] = None
    for variable in (graph.nodes[index].variable for index in read):
        yield StoredVariable(
            variable.name,
            tuple(dimension.size for dimension in variable.shape.dim),
            tf.dtypes.as_dtype(variable.dtype).name,
            variable.trainable,
        )


def _uses(library: Mapping[str, FunctionDef], name: str, position: int) -> bool:
    """Return whether a function does more with an argument than hand it to others that do not.

    TensorFlow 1 graphs are written so that every function captures every variable.
    """
    argument = library[name].signature.input_arg[position].name
    for node in library[name].node_def:
        for place, tensor in enumerate(node.input):
            if tensor.partition(":")[0] == argument and (
                not node.op.endswith("PartitionedCall")
                or _uses(library, node.attr["f"].func.name, place)
            ):
                return True
    return False
