"""The published graph files, read with `onnx` alone: operators, types, names, float32 islands, nothing superfluous."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import onnx
import pytest
from export_support import ATTO
from onnx_graphs import DTYPES, GRAPHS, PRECISIONS, Graph, attribute, graph_file, strings

from export.operators import TENSORRT_OPERATORS
from spd.bundle import open_bundle

ROOTS = {
    "encoder": ("normalisation", "stem", "stages", "l3_self_attn", "neck", "l4_self_attn", "precompute", "shape"),
    "decoder": ("b1", "b2", "b3a", "b3b", "b5", "head", "shape"),
}
TSV_TYPES = {"FP32": "float32", "FP16": "float16", "BF16": "bfloat16", "FP8": "float8_e4m3fn"}
RESULTS = {"DequantizeLinear": {"float32", "float16", "bfloat16"}, "QuantizeLinear": {"int8", "float8_e4m3fn"}}
"""What an operator writes or is scaled by, where the parser's table names the types that it reads."""

HALVES = ("float16", "bfloat16")
HALF_PRECISIONS = ("fp16", "bf16")

every_graph = pytest.mark.parametrize(
    ("graph", "precision"), [(graph, precision) for precision in PRECISIONS for graph in GRAPHS]
)
every_half = pytest.mark.parametrize("precision", HALF_PRECISIONS)


@pytest.fixture
def loaded(exported: Path, graph: str, precision: str) -> Graph:
    return graph_file(exported, graph, precision)


@pytest.fixture
def decoder(exported: Path, precision: str) -> Graph:
    return graph_file(exported, "decoder", precision)


@pytest.fixture
def encoder(exported: Path, precision: str) -> Graph:
    return graph_file(exported, "encoder", precision)


@pytest.fixture(scope="module")
def parser_table() -> dict[str, dict[str, str]]:
    """The table of TensorRT's ONNX parser as it was copied from its documentation, by operator."""
    path = Path(__file__).parents[2] / ".." / "shared" / "tensorrt" / "onnx_operators_10.1.tsv"
    if not path.is_file():
        pytest.skip("the parser's table (../shared/tensorrt/onnx_operators_10.1.tsv) is not here")
    with path.open(encoding="utf-8", newline="") as file:
        return {row["operator"]: row for row in csv.DictReader(file, delimiter="\t")}


@pytest.mark.parametrize("operator", sorted(TENSORRT_OPERATORS))
def test_the_operator_table_is_the_parsers(parser_table: dict[str, dict[str, str]], operator: str) -> None:
    row = parser_table[operator]
    assert row["supported"] == "Y"
    allowed = {TSV_TYPES.get(name, name.lower()) for name in re.split(r"\W+", row["types"]) if name}
    assert allowed | RESULTS.get(operator, set()) >= TENSORRT_OPERATORS[operator]


@every_graph
def test_every_operator_takes_the_types_it_gets(loaded: Graph) -> None:
    found = {
        f"{node.op_type} of {dtype}"
        for node in loaded.nodes
        for dtype in loaded.dtypes(node)
        if node.domain or dtype not in TENSORRT_OPERATORS.get(node.op_type, set())
    }
    assert not found
    assert not loaded.of("GridSample")


@every_graph
def test_what_the_parser_wants_constant_is_constant(parser_table: dict[str, dict[str, str]], loaded: Graph) -> None:
    version = loaded.model.opset_import[0].version
    checked = 0
    for node in loaded.nodes:
        restrictions = parser_table[node.op_type]["restrictions"]
        names = re.findall(r"`(\w+)`[\w ]* must be (?:an initializer|a constant|a build-time constant)", restrictions)
        inputs = [parameter.name for parameter in onnx.defs.get_schema(node.op_type, version).inputs]
        for index in (inputs.index(name) for name in names if name in inputs):
            if index < len(node.input) and node.input[index]:
                assert node.input[index] in loaded.initialisers, node.name
                checked += 1
    assert checked > 10


@every_graph
def test_onnx_accepts_the_file(loaded: Graph) -> None:
    onnx.checker.check_model(loaded.model, full_check=True)
    nodes = {name for node in loaded.nodes for name in (*node.input, *node.output) if name}
    assert nodes <= set(loaded.types), "onnx infers no type for these"


@every_graph
def test_inferred_types_are_those_the_file_claims(loaded: Graph) -> None:
    claimed = {value.name: value.type.tensor_type for value in loaded.model.graph.value_info}
    assert claimed
    made = {name for node in loaded.nodes for name in node.output} - {v.name for v in loaded.model.graph.output}
    assert set(claimed) - set(loaded.initialisers) == made, "the file describes tensors that are not there, or not all"
    wrong = {
        name: (loaded.types[name], onnx.TensorProto.DataType.Name(tensor.elem_type))
        for name, tensor in claimed.items()
        if onnx.TensorProto.DataType.Name(tensor.elem_type)
        != {"float32": "FLOAT"}.get(loaded.types[name], loaded.types[name].upper())
    }
    assert not wrong


@every_graph
def test_nothing_is_computed_or_stored_in_vain(loaded: Graph) -> None:
    outputs = {value.name for value in loaded.model.graph.output}
    dead = [node.name for node in loaded.nodes if not any(o in outputs or o in loaded.readers for o in node.output)]
    assert not dead
    assert not [name for name in loaded.initialisers if name not in loaded.readers]
    assert not [value.name for value in loaded.model.graph.input if value.name not in loaded.readers]
    assert not loaded.of("Identity", "Constant", "Dropout")
    assert not [n.name for n in loaded.of("Cast") if loaded.types[n.input[0]] == loaded.types[n.output[0]]]


@every_graph
def test_no_weight_is_stored_twice(loaded: Graph) -> None:
    content = Counter(
        (tensor.data_type, tuple(tensor.dims), onnx.numpy_helper.to_array(tensor).tobytes())
        for tensor in loaded.initialisers.values()
    )
    twice = [(dtype, shape) for (dtype, shape, _), count in content.items() if count > 1]
    assert not twice


@every_graph
def test_no_computation_is_done_twice(loaded: Graph) -> None:
    seen = Counter(
        (n.op_type, tuple(n.input), tuple(sorted(a.SerializeToString(deterministic=True) for a in n.attribute)))
        for n in loaded.nodes
    )
    assert not [key[:2] for key, count in seen.items() if count > 1]


@every_graph
def test_the_file_says_nothing_of_the_machine_it_was_made_on(loaded: Graph) -> None:
    local = re.compile(r"^/|site-packages|\.py\b|\\|^[A-Za-z]:|\bfile:")
    assert not [text for text in strings(loaded.model) if local.search(text)]
    assert not loaded.model.metadata_props
    assert not loaded.model.doc_string
    for item in (loaded.model.graph, *loaded.nodes):
        assert not item.metadata_props, item.name
        assert not item.doc_string, item.name
    here = str(Path(__file__).parents[2]).encode()
    assert here not in loaded.model.SerializeToString()
    assert not [t.name for t in loaded.initialisers.values() if t.data_location == onnx.TensorProto.EXTERNAL]


@every_graph
def test_nodes_are_named_by_their_place_in_the_model(loaded: Graph, graph: str) -> None:
    names = [node.name for node in loaded.nodes]
    assert len(set(names)) == len(names)
    for node in loaded.nodes:
        *scope, last = node.name.split("/")
        assert re.fullmatch(rf"{node.op_type}(_\d+)?", last), node.name
        assert not scope or scope[0] in ROOTS[graph], node.name
    assert {name.split("/")[0] for name in names if "/" in name} >= set(ROOTS[graph]) - {"shape"}
    parameters = [name for name in loaded.initialisers if name.endswith((".weight", ".bias"))]
    assert len(parameters) > 50
    assert all(name.split(".")[0] in ROOTS[graph] for name in parameters)


@every_graph
def test_interface_is_the_manifests(loaded: Graph, exported: Path, graph: str, precision: str) -> None:
    manifest = open_bundle(exported).manifest
    assert [(o.domain, o.version) for o in loaded.model.opset_import] == [("", manifest.opset)]
    tensors = manifest.contract
    specs = {
        "encoder": (tensors.encoder_inputs, tensors.encoder_outputs),
        "decoder": (tensors.decoder_inputs, tensors.decoder_outputs),
    }[graph]
    for wanted, values in zip(specs, (loaded.model.graph.input, loaded.model.graph.output), strict=True):
        assert [spec.name for spec in wanted] == [value.name for value in values]
        for spec in wanted:
            assert loaded.shapes[spec.name] == list(spec.shape)
            assert loaded.types[spec.name] == (DTYPES[precision] if spec.dtype == "graph" else spec.dtype)


@every_half
def test_normalisation_is_float32_until_it_is_done(encoder: Graph, precision: str) -> None:
    first, *arithmetic, last = encoder.under("normalisation")
    assert encoder.dtypes(first) == ["uint8", "float32"]
    assert [node.op_type for node in arithmetic] == ["Mul", "Add"]
    assert all(set(encoder.dtypes(node)) == {"float32"} for node in arithmetic)
    assert encoder.dtypes(last) == ["float32", DTYPES[precision]]


@pytest.mark.parametrize("precision", ["fp32"])
def test_a_cpu_only_makes_numbers_of_bytes(encoder: Graph) -> None:
    assert [node.op_type for node in encoder.under("normalisation")] == ["Cast"]


@every_half
def test_grn_statistics_are_float32(encoder: Graph, precision: str) -> None:
    blocks = sorted({node.name.rsplit("/", 1)[0] for node in encoder.under("grn")})
    assert len(blocks) == 12, "atto has 2 + 2 + 6 + 2 blocks"
    for block in blocks:
        nodes = [node for node in encoder.nodes if node.name.startswith(f"{block}/")]
        half = [node.op_type for node in nodes if set(encoder.dtypes(node)) == {DTYPES[precision]}]
        wide = [node.op_type for node in nodes if set(encoder.dtypes(node)) - {"int64"} == {"float32"}]
        assert not half, "the factor is rounded where it is applied"
        assert {"ReduceMean", "Sqrt", "Div"} <= set(wide)
        assert sorted([*wide, "Cast"]) == sorted(node.op_type for node in nodes)
    assert not encoder.of("ReduceL2", "ReduceSumSquare", "ReduceSum")


@every_graph
def test_layernorm_statistics_are_float32(loaded: Graph, precision: str) -> None:
    norms = loaded.of("LayerNormalization")
    assert norms
    assert {attribute(node, "stash_type", 1) for node in norms} == {1}
    for node in norms:
        assert attribute(node, "axis", -1) in (-1, len(loaded.shapes[node.input[0]]) - 1), node.name
    assert {loaded.types[node.output[0]] for node in norms} == {DTYPES[precision]}


@every_half
def test_routing_is_float32_from_the_scores_to_topk(decoder: Graph, precision: str) -> None:
    (topk,) = decoder.of("TopK")
    assert attribute(topk, "sorted", 1) == 1
    assert topk.input[1] in decoder.initialisers
    assert onnx.numpy_helper.to_array(decoder.initialisers[topk.input[1]]).tolist() == [20]
    upstream = list(decoder.upstream(topk.input[0]))
    softmax = next(node for node in upstream if node.op_type == "Softmax")
    beyond = {node.name for node in decoder.upstream(softmax.output[0])}
    mean = [node for node in upstream if node.name not in beyond]  # the heads are added one by one
    heads = ATTO.heads
    assert Counter(node.op_type for node in mean) == {"Slice": heads, "Squeeze": heads, "Add": heads - 1, "Div": 1}
    starts = [decoder.initialisers[node.input[1]] for node in mean if node.op_type == "Slice"]
    assert sorted(onnx.numpy_helper.to_array(start).item() for start in starts) == list(range(heads))
    scores = decoder.producer[softmax.input[0]]
    assert scores.op_type == "MatMul"
    for node in (topk, *mean, softmax, scores):
        assert {decoder.types[name] for name in node.input} <= {"float32", "int64"}, node.name


@every_half
def test_the_last_layer_of_the_head_and_exp_are_float32(decoder: Graph, precision: str) -> None:
    (exp,) = decoder.of("Exp")
    assert list(exp.output) == ["depth"]
    chain = [exp]
    while chain[-1].op_type != "Cast":
        chain.append(decoder.producer[chain[-1].input[0]])
    assert [node.op_type for node in chain] == ["Exp", "Squeeze", "Add", "MatMul", "Cast"]
    assert all(decoder.types[name] == "float32" for node in chain[:-1] for name in node.input[:1])
    assert decoder.types[chain[3].input[1]] == "float32"
    assert decoder.types[chain[-1].input[0]] == DTYPES[precision]


@every_half
def test_coordinates_are_float32_until_they_become_indices(decoder: Graph, precision: str) -> None:
    casts = [node for node in decoder.of("Cast") if decoder.types[node.output[0]] == "int64"]
    # Rows and columns of the windows of all levels, and of the learned offsets.
    assert len(casts) == 2
    for cast in casts:
        assert decoder.types[cast.input[0]] == "float32"
        assert decoder.producer[cast.input[0]].op_type == "Min"
        entries = [
            node
            for node in decoder.upstream(cast.output[0])
            if node.op_type == "Cast" and decoder.types[node.input[0]] in HALVES
        ]
        # Only the learned offsets depend on a feature: W_off f is widened before tanh.
        wanted = ["Tanh"] if cast.name.startswith("b1/learned_window/") else []
        assert [reader.op_type for node in entries for reader in decoder.readers[node.output[0]]] == wanted


@every_half
def test_indices_are_never_half_precision(decoder: Graph, precision: str) -> None:
    for node in decoder.of("Cast"):
        source, target = decoder.dtypes(node)
        assert not (source in HALVES and target == "int64"), node.name
        assert not (source == "int64" and target in HALVES), node.name
    gathers = [node for node in decoder.of("Gather") if node.input[1] not in decoder.initialisers]
    assert len(gathers) == 21, "four neighbours in each of four windows, four single samples, and the routed tokens"
    for gather in gathers:
        assert decoder.types[gather.input[1]] == "int64"


@every_half
def test_window_weights_are_float32_until_they_are_applied(decoder: Graph, precision: str) -> None:
    floors = decoder.of("Floor")
    assert len(floors) == 2, "the fractions of all levels, and of the learned offsets"
    for floor in floors:
        (subtract,) = (n for n in decoder.readers[floor.output[0]] if n.op_type == "Sub")
        frontier, narrowed = [subtract.output[0]], 0
        while frontier:
            name = frontier.pop()
            assert decoder.types[name] == "float32"
            for reader in decoder.readers[name]:
                if reader.op_type == "Cast":
                    narrowed += 1
                    assert decoder.producer[reader.input[0]].op_type == "Concat", "the four weights, complete"
                else:
                    assert reader.op_type in ("Split", "Sub", "Mul", "Concat"), reader.name
                    frontier.extend(reader.output)
        assert narrowed


@pytest.mark.parametrize("graph", GRAPHS)
@every_half
def test_attention_is_fusable(loaded: Graph, graph: str, precision: str) -> None:
    softmaxes = loaded.of("Softmax")
    assert len(softmaxes) == {"encoder": 2 + 2, "decoder": 2 + 2 + 2 + 3}[graph]
    for softmax in softmaxes:
        scores = loaded.producer[softmax.input[0]]
        assert scores.op_type == "MatMul"
        assert (
            attribute(softmax, "axis", -1) % len(loaded.shapes[softmax.input[0]])
            == len(loaded.shapes[softmax.input[0]]) - 1
        )
        readers = loaded.readers[softmax.output[0]]
        if softmax.name.startswith("b3b/layers/1/"):
            assert sorted(node.op_type for node in readers) == ["Cast", *["Slice"] * ATTO.heads]
            continue
        assert [node.op_type for node in readers] == ["MatMul"]
        for node in (scores, softmax, *readers):
            assert set(loaded.dtypes(node)) == {DTYPES[precision]}, node.name
        head_size = loaded.shapes[scores.input[0]][-1]
        assert isinstance(head_size, int)
        assert 16 <= head_size <= 256
        assert head_size % 8 == 0


@every_half
def test_the_rest_of_the_arithmetic_is_in_the_graphs_precision(exported: Path, precision: str) -> None:
    for graph in GRAPHS:
        loaded = graph_file(exported, graph, precision)
        wide = {node.name for node in loaded.of("MatMul", "Conv", "Gemm") if "float32" in loaded.dtypes(node)}
        assert wide == ({"b3b/layers/1/MatMul", "head/w_r2/MatMul"} if graph == "decoder" else set())
