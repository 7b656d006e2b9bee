"""The contract between the encoder graph and the decoder graph: names, shapes and dtypes of every tensor.

Export, engine builder, calibration and all runtimes read it from here. Shapes use `"B"` (images) and `"K"` (points per
image) for the two dynamic dimensions; everything else is fixed by the model and the image size. `"graph"` as a dtype
stands for the type of what the graph does not quantise: float32, float16 or bfloat16.

Points are `(u, v)`: u to the right, v down, in pixels of the image. The image covers `0 <= u < W`, `0 <= v < H`; (0, 0)
is the outer corner of the first pixel and the centre of the pixel in column i, row j is `(i + 0.5, j + 0.5)`. This is
the paper's `grid = 2 p / dim - 1` under `align_corners=False` (its section 6), with no half-pixel added.
"""

from __future__ import annotations

from dataclasses import dataclass

from spd.config import STRIDES, SPDConfig, check_size

FLOATING = ("fp32", "fp16", "bf16")
"""Precisions without quantised products; fp32 is the reference and always there."""

QUANTISED = {"int8": "fp32", "int8-fp16": "fp16", "fp8": "fp16"}
"""Precisions whose products with weights have 8 bits, and the precision of all else in their graphs.

int8 is for CPUs, whose fast instructions multiply unsigned by signed bytes: activations are uint8 around 128. int8-fp16
is for TensorRT, which takes int8 around 0 only. fp8 (e4m3) is for TensorRT on GPUs of `FP8_CAPABILITY` or later.
"""

FP8_CAPABILITY = (8, 9)
"""The first compute capability that multiplies float8: GeForce RTX 40 and NVIDIA L4, then all later ones."""

PRECISIONS = (*FLOATING, *QUANTISED)
"""Precisions a graph can be written in."""

RUN_PRECISIONS = (*PRECISIONS, "int8-bf16")
"""Precisions a bundle can be run in. int8-bf16 takes the int8 graphs; the rest of the encoder is run in bfloat16."""

BACKENDS = ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime-cpu", "openvino", "torch")
"""What can run a model, in the order in which `auto` tries them; all but torch run the graphs.

`auto` comes to openvino for what onnxruntime-cpu cannot run: bf16. OpenVINO takes 0.9 of ONNX Runtime's time for each
photo in float32 and 0.8 in int8, but more to load: a command that asks one photo for 256 points in int8 takes 3.2 s of
processor time and 485 MB instead of 1.8 s and 300 MB with `tiny` at 480x640, and 2.6 s and 249 MB instead of 0.7 s and
113 MB with `atto` at 192x256. Asked for by name it pays from 30 photos on with the former, and from some hundreds with
the latter.
"""

_FLOATING_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

DTYPES = _FLOATING_DTYPES | {precision: _FLOATING_DTYPES[base] for precision, base in QUANTISED.items()}
"""The dtype that `"graph"` stands for, per precision."""

CONVENTIONS = {
    "image": "uint8 [B, H, W, 3], RGB; normalised inside the graph",
    "points": "float32 [B, K, 2], (u, v) = (right, down) in pixels of the graph's image; "
    "(0, 0) is the outer corner of the first pixel, pixel (i, j) has its centre at (i + 0.5, j + 0.5)",
    "depth": "float32 [B, K], metres along the optical axis",
}
"""Written into every manifest, for readers without this module."""


@dataclass(frozen=True)
class TensorSpec:
    """One graph input or output."""

    name: str
    dtype: str
    """`uint8`, `float32`, `int64`, or `graph`."""
    shape: tuple[int | str, ...]
    """Dimensions; `"B"` and `"K"` are dynamic."""

    def resolved(self, batch: int, points: int = 0) -> tuple[int, ...]:
        """The shape with numbers for B and K."""
        sizes = {"B": batch, "K": points}
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.shape)


def cache_tensors(config: SPDConfig, height: int, width: int) -> tuple[TensorSpec, ...]:
    """The encoder's outputs, which are the decoder's inputs besides `points`, in order (paper 5, design 4).

    - `l1_map`: L1, read by B1 as 5x5 windows and at learned offsets.
    - `l2_map`, `l3_map`, `l4_map`: `W_v2 L2`, `L3` and `W_v4 L4`, read by B1 as 5x5, 5x5 and 3x3 windows.
    - `l2_central`, `l3_central`, `l4_central`: the paper's L-hat 2..4, read by B5 at the query.
    - `l3_keys_1` ... `l4_values_2`: K and V of B3a and B3b per layer, split into heads.
    - `l4_routed`: the paper's g plus its type embedding e_g, normalised by LN_kv2's statistics, gathered by B5.

    Maps are channels-last rows of a feature map inside a ring of zeros: row `(y + 1) * (w + 2) + x + 1` is cell (x, y).

    Raises:
        ValueError: the encoder cannot take images of this size.
    """
    check_size(height, width, config)
    cells = [(height // s, width // s) for s in STRIDES]

    def rows(name: str, level: int, channels: int) -> TensorSpec:
        h, w = cells[level - 1]
        return TensorSpec(name, "graph", ("B", (h + 2) * (w + 2), channels))

    d = config.d
    maps = [rows("l1_map", 1, config.neck_channels[0])]
    maps += [rows(f"l{level}_map", level, d) for level in (2, 3, 4)]
    maps += [rows(f"l{level}_central", level, d) for level in (2, 3, 4)]
    attention = [
        TensorSpec(
            f"l{level}_{role}_{layer}",
            "graph",
            ("B", config.heads, cells[level - 1][0] * cells[level - 1][1], config.d_head),
        )
        for level in (3, 4)
        for layer in range(1, config.b3_layers + 1)
        for role in ("keys", "values")
    ]
    routed = TensorSpec("l4_routed", "graph", ("B", cells[3][0] * cells[3][1], d))
    return (*maps, *attention, routed)


@dataclass(frozen=True)
class Contract:
    """Inputs and outputs of both graphs of one bundle."""

    encoder_inputs: tuple[TensorSpec, ...]
    encoder_outputs: tuple[TensorSpec, ...]
    decoder_inputs: tuple[TensorSpec, ...]
    decoder_outputs: tuple[TensorSpec, ...]

    def inputs(self, graph: str) -> tuple[TensorSpec, ...]:
        """What the `encoder` or the `decoder` reads."""
        return self.encoder_inputs if graph == "encoder" else self.decoder_inputs

    def outputs(self, graph: str) -> tuple[TensorSpec, ...]:
        """What the `encoder` or the `decoder` writes."""
        return self.encoder_outputs if graph == "encoder" else self.decoder_outputs


def contract(config: SPDConfig, height: int, width: int, with_routes: bool = False) -> Contract:
    """The contract of a model at an image size in pixels; `with_routes` adds B3b's choice as a second output."""
    cache = cache_tensors(config, height, width)
    outputs = [TensorSpec("depth", "float32", ("B", "K"))]
    if with_routes:
        outputs.append(TensorSpec("routes", "int64", ("B", "K", config.routed_tokens)))
    return Contract(
        encoder_inputs=(TensorSpec("image", "uint8", ("B", height, width, 3)),),
        encoder_outputs=cache,
        decoder_inputs=(*cache, TensorSpec("points", "float32", ("B", "K", 2))),
        decoder_outputs=tuple(outputs),
    )
