"""Stand-in for the ONNX parser and the network that it fills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from stand_ins.machine import current
from stand_ins.trt_enums import Bound, Dims, NoConstructor, enum, expect, whole
from stand_ins.trt_graph import Graph, Node, Tensor, graph_of
from stand_ins.trt_logging import ILogger, checked, say


class ITensor(NoConstructor):
    """An input or output of a network."""

    @classmethod
    def _make(cls, tensor: Tensor, is_input: bool) -> ITensor:
        made = cls.__new__(cls)
        made._tensor, made._is_input = tensor, is_input
        return made

    _tensor: Tensor
    _is_input: bool

    @property
    def name(self) -> str:
        """As in the ONNX graph."""
        return self._tensor.name

    @property
    def dtype(self) -> Any:
        """As in the ONNX graph."""
        return getattr(enum("DataType"), self._tensor.dtype)

    @property
    def shape(self) -> Dims:
        """With -1 for dynamic sizes."""
        return Dims(self._tensor.shape)

    @property
    def is_network_input(self) -> bool:
        """Whether it is an input."""
        return self._is_input

    @property
    def is_network_output(self) -> bool:
        """Whether it is an output."""
        return not self._is_input


class INetworkDefinition(NoConstructor):
    """A network; empty until a parser fills it."""

    @classmethod
    def _make(cls, flags: int) -> INetworkDefinition:
        made = cls.__new__(cls)
        made._flags, made._graph, made.name = flags, None, ""
        return made

    name: str
    _flags: int
    _graph: Graph | None

    @property
    def flags(self) -> int:
        """Bits of NetworkDefinitionCreationFlag."""
        return self._flags

    def get_flag(self, flag: Any) -> bool:
        """Whether a flag is set."""
        return bool(self._flags >> int(expect(flag, "NetworkDefinitionCreationFlag")) & 1)

    @property
    def num_layers(self) -> int:
        """Layers, one for each node."""
        return 0 if self._graph is None else len(self._graph.nodes)

    def __len__(self) -> int:
        return self.num_layers

    @property
    def num_inputs(self) -> int:
        """Inputs."""
        return 0 if self._graph is None else len(self._graph.inputs)

    @property
    def num_outputs(self) -> int:
        """Outputs."""
        return 0 if self._graph is None else len(self._graph.outputs)

    def get_input(self, index: int) -> ITensor | None:
        """One of the inputs; None beyond the last."""
        return (
            None if index >= self.num_inputs or self._graph is None else ITensor._make(self._graph.inputs[index], True)
        )

    def get_output(self, index: int) -> ITensor | None:
        """One of the outputs; None beyond the last."""
        if index >= self.num_outputs or self._graph is None:
            return None
        return ITensor._make(self._graph.outputs[index], False)


class ParserError(NoConstructor):
    """What the parser could not do."""

    @classmethod
    def _make(cls, code: str, text: str, node: Node | None = None, index: int = -1) -> ParserError:
        made = cls.__new__(cls)
        made._code, made._text, made._node, made._index = code, text, node, index
        return made

    _code: str
    _text: str
    _node: Node | None
    _index: int

    def code(self) -> Any:
        """Kind of error."""
        return getattr(enum("ErrorCode"), self._code)

    def desc(self) -> str:
        """In words."""
        return self._text

    def file(self) -> str:
        """Where in the parser's source."""
        return "onnxOpCheckers.cpp"

    def line(self) -> int:
        """Where in the parser's source."""
        return 1

    def func(self) -> str:
        """Where in the parser's source."""
        return "checkFallbackPluginImporter"

    def node(self) -> int:
        """Index of the node in the graph; -1 if it is about none."""
        return self._index

    def node_name(self) -> str:
        """Name of the node."""
        return "" if self._node is None else self._node.name

    def node_operator(self) -> str:
        """Operator of the node."""
        return "" if self._node is None else self._node.operator

    def local_function_stack(self) -> list[str]:
        """Functions that the node is in."""
        return []

    def local_function_stack_size(self) -> int:
        """How many functions the node is in."""
        return 0


class OnnxParser(Bound):
    """Fills a network from an ONNX file."""

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        if not isinstance(network, INetworkDefinition):
            raise TypeError(f"incompatible constructor arguments: expected INetworkDefinition, got {network!r}")
        self._network, self._logger = network, checked(logger)
        self._errors: list[ParserError] = []
        self._flags = 0

    @property
    def flags(self) -> int:
        """Bits of OnnxParserFlag."""
        return self._flags

    @flags.setter
    def flags(self, value: int) -> None:
        self._flags = whole(value)

    def set_flag(self, flag: Any) -> None:
        """Set a flag."""
        self._flags |= 1 << int(expect(flag, "OnnxParserFlag"))

    def clear_flag(self, flag: Any) -> None:
        """Clear a flag."""
        self._flags &= ~(1 << int(expect(flag, "OnnxParserFlag")))

    def get_flag(self, flag: Any) -> bool:
        """Whether a flag is set."""
        return bool(self._flags >> int(expect(flag, "OnnxParserFlag")) & 1)

    @property
    def num_errors(self) -> int:
        """Errors of the last parse."""
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        """One of the errors."""
        return self._errors[index]

    def clear_errors(self) -> None:
        """Forget the errors."""
        self._errors.clear()

    def supports_operator(self, op_name: str) -> bool:
        """Whether there is an importer for an operator."""
        return bool(onnx.defs.has(op_name)) and op_name != current().faults.refused_operator

    def parse_from_file(self, model: str) -> bool:
        """Read a file, with the weights beside it if it has any there."""
        try:
            data = onnx.load(model).SerializeToString() if Path(model).is_file() else None
        except Exception as error:  # a damaged file raises what protobuf or onnx please
            return self._failed(ParserError._make("MODEL_DESERIALIZE_FAILED", f"Failed to parse ONNX model: {error}"))
        if data is None:
            return self._failed(ParserError._make("MODEL_DESERIALIZE_FAILED", f"Failed to open file: {model}"))
        return self.parse(data)

    def parse(self, model: Any, path: str | None = None) -> bool:
        """Read a model from memory."""
        self._errors.clear()
        if self._network._graph is not None:
            return self._failed(ParserError._make("UNSUPPORTED_GRAPH", "the network has been filled before"))
        try:
            graph = graph_of(bytes(model))
        except Exception as error:
            return self._failed(ParserError._make("MODEL_DESERIALIZE_FAILED", f"Failed to parse ONNX model: {error}"))
        for index, node in enumerate(graph.nodes):
            if not self.supports_operator(node.operator):
                text = f"No importer registered for op: {node.operator}. Attempted to import as plugin and failed."
                self._errors.append(ParserError._make("UNSUPPORTED_NODE", text, node, index))
            elif node.operator != "Cast" and any(graph.dtypes.get(name) == "UINT8" for name in node.inputs):
                text = f"{node.operator} does not take UINT8; it is for network inputs and outputs, and Cast"
                self._errors.append(ParserError._make("UNSUPPORTED_NODE_DATATYPE", text, node, index))
        if self._errors:
            return self._failed()
        self._network._graph = graph
        return True

    def _failed(self, *errors: ParserError) -> bool:
        self._errors += errors
        for error in self._errors:
            say(self._logger, "ERROR", f"ModelImporter.cpp: {error.desc()}")
        return False
