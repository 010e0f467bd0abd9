"""SavedModels: what would read, write or execute is refused by name, and soon."""

import resource
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from saved_models import save_function, save_tensorflow_1
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tfinetune.errors import BackboneError, UnsafeModelError
from tfinetune.security.saved_model import find_saved_model, read_saved_model, trusting
from tfinetune.security.saved_model_loading import load_graph, prepare


def _raw_table(x):
    table = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)
    tf.raw_ops.InitializeTableFromTextFileV2(
        table_handle=table, filename="/etc/passwd", key_index=-2, value_index=-1
    )
    return x


def _dataset(x):
    for line in tf.data.TextLineDataset("/etc/passwd").take(1):
        tf.print(line)
    return x


def _print_to_file(x):
    tf.print(x, output_stream="file:///tmp/tfinetune_must_not_exist")
    return x


def _restored(prefix):
    (tensor,) = tf.raw_ops.RestoreV2(
        prefix=prefix, tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32]
    )
    return tensor


HOSTILE = {
    "ReadFile": lambda x: x + tf.cast(tf.strings.length(tf.io.read_file("/etc/passwd")), "float32"),
    "WriteFile": lambda x: (tf.io.write_file("/tmp/tfinetune_must_not_exist", "x"), x)[1],
    "MatchingFiles": lambda x: x + tf.cast(tf.size(tf.io.matching_files("/*")), "float32"),
    "EagerPyFunc": lambda x: tf.py_function(lambda v: v, [x], tf.float32),
    "PyFunc": lambda x: tf.numpy_function(lambda v: v, [x], tf.float32),
    "TextLineDataset": _dataset,
    "PrintV2 to file:///tmp/tfinetune_must_not_exist": _print_to_file,
    "RestoreV2 outside the saver": lambda x: x + _restored("/x"),
    "SaveV2 outside the saver": lambda x: (
        tf.raw_ops.SaveV2(prefix="/tmp/x", tensor_names=["a"], shape_and_slices=[""], tensors=[x]),
        x,
    )[1],
    "InitializeTableFromTextFileV2 from outside the assets": _raw_table,
    "Abort": lambda x: (tf.raw_ops.Abort(error_msg="gone", exit_without_error=True), x)[1],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_operations_that_do_more_than_compute_are_refused_by_name(tmp_path, name):
    path = save_function(tmp_path / "model", HOSTILE[name])
    started = time.monotonic()
    with pytest.raises(UnsafeModelError, match=f"holds {name}.*trust=True"):
        read_saved_model(path)
    assert time.monotonic() - started < 2
    with trusting(True):
        read_saved_model(path)


def test_a_restorer_that_writes_is_refused(tmp_path):
    save_tensorflow_1(tmp_path / "model")
    file = tmp_path / "model" / "saved_model.pb"
    saved = SavedModel.FromString(file.read_bytes())
    (graph,) = saved.meta_graphs
    (restorer,) = (n for n in graph.graph_def.node if n.name == graph.saver_def.restore_op_name)
    (saver,) = (node for node in graph.graph_def.node if node.op == "SaveV2")
    restorer.input.append(f"^{saver.name}")
    file.write_bytes(saved.SerializeToString())
    with pytest.raises(UnsafeModelError, match="SaveV2 while it is restored"):
        read_saved_model(tmp_path / "model")


def test_several_operations_are_all_named(tmp_path):
    path = save_function(tmp_path / "model", lambda x: _print_to_file(HOSTILE["ReadFile"](x)))
    with pytest.raises(UnsafeModelError, match="ReadFile, PrintV2 to file"):
        read_saved_model(path)


def test_a_table_of_an_asset_is_allowed(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("red\nblue\n")
    lines = tf.lookup.TextFileIndex
    initializer = tf.lookup.TextFileInitializer(
        str(words), tf.string, lines.WHOLE_LINE, tf.int64, lines.LINE_NUMBER
    )

    class Lookup(tf.Module):
        def __init__(self):
            super().__init__()
            self.table = tf.lookup.StaticHashTable(initializer, -1)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, x):
            return self.table.lookup(x)

    tf.saved_model.save(Lookup(), str(tmp_path / "model"))
    words.unlink()
    prepared = prepare(read_saved_model(tmp_path / "model"))
    answers = load_graph(prepared, {})(tf.constant(["blue", "?"]))
    np.testing.assert_array_equal(answers, [1, -1])


@pytest.fixture
def edit(tmp_path):
    """Return a function that changes the description of a small SavedModel."""

    def change(how) -> Path:
        path = save_function(tmp_path / "model", lambda x: x + tf.constant([1.0, 2.0, 3.0, 4.0]))
        file = path / "saved_model.pb"
        saved = SavedModel.FromString(file.read_bytes())
        how(saved.meta_graphs[0])
        file.write_bytes(saved.SerializeToString())
        return path

    return change


def _huge_constant(graph):
    node = graph.graph_def.node.add(name="bomb", op="Const")
    node.attr["dtype"].type = tf.float32.as_datatype_enum
    node.attr["value"].tensor.dtype = tf.float32.as_datatype_enum
    node.attr["value"].tensor.tensor_shape.dim.add(size=10**10)
    node.attr["value"].tensor.float_val.append(0.0)


def _huge_variable(graph):
    variable = graph.object_graph_def.nodes.add().variable
    variable.dtype = tf.float32.as_datatype_enum
    variable.shape.dim.add(size=10**10)


def _asset_outside(graph):
    graph.asset_file_def.add(filename="../../../etc/passwd")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (_huge_constant, "declares constants of 40,000,000,"),
        (_huge_variable, "declares variables of 40,000,000,000 bytes; its data files hold"),
        (_asset_outside, "which lies outside its assets folder"),
    ],
)
def test_what_the_files_do_not_account_for_is_refused(edit, how, reason):
    path = edit(how)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(UnsafeModelError, match=reason):
        read_saved_model(path)
    assert time.monotonic() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024


def test_a_graph_of_gigabytes_is_refused_unread(edit):
    path = edit(lambda graph: None)
    with open(path / "saved_model.pb", "r+b") as file:
        file.truncate(2**31)
    with pytest.raises(UnsafeModelError, match="2,147,483,648 bytes .*refused unread"):
        read_saved_model(path)


def test_links_out_of_the_folder_are_refused(edit):
    path = edit(lambda graph: None)
    (path / "assets").mkdir(exist_ok=True)
    (path / "assets" / "words.txt").symlink_to("/etc/passwd")
    with pytest.raises(UnsafeModelError, match="links assets/words.txt to another place"):
        read_saved_model(path)


@pytest.mark.parametrize("content", [b"", b"\x00\xff not a graph"])
def test_damaged_graphs_say_so(tmp_path, content):
    (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(BackboneError, match="saved_model.pb (is damaged|holds no graph)"):
        read_saved_model(tmp_path)


def test_tags_choose_the_graph(tmp_path):
    save_tensorflow_1(tmp_path / "eval", tags=("eval",))
    assert not read_saved_model(tmp_path / "eval").has_objects
    with pytest.raises(BackboneError, match=r"tags \['eval'\]; tags=\['serve'\] was asked for"):
        read_saved_model(tmp_path / "eval", tags="serve")


def test_the_serving_graph_is_taken_of_several(edit):
    path = edit(lambda graph: None)
    file = path / "saved_model.pb"
    saved = SavedModel.FromString(file.read_bytes())
    train = saved.meta_graphs.add()
    train.CopyFrom(saved.meta_graphs[0])
    train.meta_info_def.tags[:] = ["train"]
    file.write_bytes(saved.SerializeToString())
    for tags, taken in ((None, "serve"), ("train", "train")):
        assert [*read_saved_model(path, tags=tags).meta_graph.meta_info_def.tags] == [taken]
    saved.meta_graphs[0].meta_info_def.tags[:] = ["eval"]
    file.write_bytes(saved.SerializeToString())
    with pytest.raises(BackboneError, match=r"\['eval'\], \['train'\]; none was named. Pass tags="):
        read_saved_model(path)


def test_the_highest_version_is_found(tmp_path):
    for version in ("1", "9", "10", "latest"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "saved_model.pb").touch()
    assert find_saved_model(tmp_path) == tmp_path / "10"
    assert find_saved_model(tmp_path / "latest") == tmp_path / "latest"
    (tmp_path / "empty").mkdir()
    assert find_saved_model(tmp_path / "empty") is None


@pytest.mark.parametrize(
    "name",
    [
        "basic_pitch/saved_model",
        "mediapipe_hub/hub_module_v1_mini",
        "mediapipe_hub/saved_model_v2_mini",
        "teachable_machine_savedmodel/model.savedmodel",
        "tf_serving/saved_model_counter/00000123",
        "tf_serving/saved_model_half_plus_two_cpu/00000123",
        "tf_serving/saved_model_half_plus_two_tf2_cpu/00000123",
        "tfx/estimator_serving",
        "tfx/transform_graph",
    ],
)
def test_real_models_pass_the_audit(shared, name):
    assert read_saved_model(shared / "models" / name).tensorflow_version
