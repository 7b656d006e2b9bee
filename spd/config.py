"""Model configurations: every width of the network, with the paper's symbols. Imports neither torch nor timm."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

STRIDES = (4, 8, 16, 32)
"""Strides s_1..s_4 of the pyramid L1..L4 (paper 6.0). H and W are multiples of the last."""

WINDOW_SIDES = (5, 5, 5, 3)
"""Side of the grid of local tokens read from L1..L4 around a query (paper 6.1)."""

PE_FREQUENCIES = 8
"""Octaves of the query's positional encoding pe_q: 2 axes x (sin, cos) x 8 = 32 numbers (paper 6.1)."""

OFFSET_FREQUENCIES = 4
"""Octaves of the offset encoding phi(delta): 2 axes x (sin, cos) x 4 = 16 numbers (paper 6.1)."""


MAX_WIDTH = 4096
MAX_LAYERS = 64


def _check_whole(name: str, value: object, limit: int) -> None:
    if type(value) is not int or not 1 <= value <= limit:
        raise ValueError(f"{name} is {value!r}: expected a whole number from 1 to {limit}")


def _is_real(value: object) -> bool:
    return type(value) in (int, float)


@dataclass(frozen=True)
class SPDConfig:
    """Widths and counts of one SPD network. Defaults are the paper's (its sections 2 to 6), the preset `tiny`.

    Raises:
        ValueError: a field is of the wrong type or beyond its bounds, a width cannot be split into heads, or L3's neck
            width is not `d` (its tokens are used as they are, paper 6.1).
    """

    backbone: str = "convnextv2_tiny"
    """timm name of the ConvNeXt V2 backbone."""
    backbone_channels: tuple[int, int, int, int] = (96, 192, 384, 768)
    """Channels of stages 1..4."""
    neck_channels: tuple[int, int, int, int] = (64, 128, 192, 384)
    """Channels of the decoder pyramid L1..L4."""
    d: int = 192
    """Core dimension of queries and tokens."""
    heads: int = 6
    """Heads of every cross-attention in B2, B3a, B3b and B5."""
    l3_heads: int = 6
    """Heads of the self-attention on stage 3 (runs at the stage's own width)."""
    l4_heads: int = 6
    """Heads of the self-attention on L4 (runs at the neck's width)."""
    self_attn_layers: int = 2
    """Layers of each self-attention."""
    b2_layers: int = 2
    """Layers of B2, local cross-attention."""
    b3_layers: int = 2
    """Layers of B3a and of B3b, global cross-attention."""
    b5_layers: int = 3
    """Layers of B5, fused cross-attention."""
    ffn_ratio: int = 4
    """Hidden width of every feed-forward network over its input width."""
    learned_offsets: int = 8
    """Learned L1 offsets per query."""
    r_max: float = 6.0
    """Reach of the learned offsets, in L1 cells."""
    routed_tokens: int = 20
    """R: L4 positions that B3b hands to B5."""
    dropout: float = field(default=0.1, compare=False)
    """Dropout in self- and cross-attention while training (paper 7.3). Configs that differ in it alone are equal."""

    def __post_init__(self) -> None:
        # A config may come from a checkpoint or manifest of unknown origin, hence the types and the upper bounds.
        # timm would fetch a name like "hf-hub:..." over the network.
        if not isinstance(self.backbone, str) or not re.fullmatch(r"convnextv2_[a-z0-9_]+", self.backbone):
            raise ValueError(f"backbone is {self.backbone!r}: expected a ConvNeXt V2 of timm, such as convnextv2_tiny")
        for name in ("backbone_channels", "neck_channels"):
            widths = getattr(self, name)
            if not isinstance(widths, list | tuple) or len(widths) != len(STRIDES):
                raise ValueError(f"{name} is {widths!r}: expected {len(STRIDES)} widths")
            for width in widths:
                _check_whole(name, width, MAX_WIDTH)
            object.__setattr__(self, name, tuple(widths))
        for name in ("d", "heads", "l3_heads", "l4_heads", "learned_offsets", "routed_tokens"):
            _check_whole(name, getattr(self, name), MAX_WIDTH)
        for name in ("self_attn_layers", "b2_layers", "b3_layers", "b5_layers", "ffn_ratio"):
            _check_whole(name, getattr(self, name), MAX_LAYERS)
        if not _is_real(self.r_max) or not 0 < self.r_max <= MAX_WIDTH:
            raise ValueError(f"r_max is {self.r_max!r}: expected a positive number of L1 cells")
        if not _is_real(self.dropout) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout!r}: expected 0 <= dropout < 1")
        for width, heads, what in (
            (self.d, self.heads, "d"),
            (self.backbone_channels[2], self.l3_heads, "backbone_channels[2]"),
            (self.neck_channels[3], self.l4_heads, "neck_channels[3]"),
        ):
            if width % heads:
                raise ValueError(f"{what} = {width} cannot be split into {heads} heads")
        if self.neck_channels[2] != self.d:
            raise ValueError(f"neck_channels[2] = {self.neck_channels[2]} must equal d = {self.d} (paper 6.1)")

    @property
    def d_head(self) -> int:
        """Width of one cross-attention head."""
        return self.d // self.heads

    @property
    def local_tokens(self) -> int:
        """Tokens that B2 reads per query: 33 from L1, 25 from L2, 25 from L3, 9 from L4.

        The paper counts 91, with 32 from L1; but its own list of them (24 fixed, 8 learned and the centre) is 33.
        """
        return sum(side * side for side in WINDOW_SIDES) + self.learned_offsets

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON types; `from_dict` reads them back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SPDConfig:
        """Read back what `as_dict` wrote.

        Raises:
            ValueError: a field is unknown, of the wrong type, or does not fit the others.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(str(name) for name in set(values) - known)
        if unknown:
            raise ValueError(f"unknown model settings {', '.join(unknown)}")
        return cls(**values)


PRESETS: dict[str, SPDConfig] = {
    "atto": SPDConfig(
        backbone="convnextv2_atto",
        backbone_channels=(40, 80, 160, 320),
        neck_channels=(32, 64, 96, 192),
        d=96,
        heads=3,
        l3_heads=5,
        l4_heads=6,
    ),
    "femto": SPDConfig(
        backbone="convnextv2_femto",
        backbone_channels=(48, 96, 192, 384),
        neck_channels=(32, 64, 96, 192),
        d=96,
        heads=3,
        l3_heads=3,
        l4_heads=3,
    ),
    "pico": SPDConfig(
        backbone="convnextv2_pico",
        backbone_channels=(64, 128, 256, 512),
        neck_channels=(48, 96, 128, 256),
        d=128,
        heads=4,
        l3_heads=4,
        l4_heads=4,
    ),
    "nano": SPDConfig(
        backbone="convnextv2_nano",
        backbone_channels=(80, 160, 320, 640),
        neck_channels=(48, 96, 160, 320),
        d=160,
        heads=5,
        l3_heads=5,
        l4_heads=5,
    ),
    "tiny": SPDConfig(),
}
"""Networks by name, from the smallest to the paper's, `tiny`. `atto` is also for demos and quick tests.

`femto`, `pico` and `nano` keep the proportions of `tiny`. With C channels of stage 1, d is 2 C and L4 has 4 C channels.
Every attention has C / 16 heads, of 32 numbers where queries meet tokens and of 64 where a map attends to itself. L1
and L2 have about d / 3 and 2 d / 3 channels, multiples of 16.
"""


DEFAULT_SIZE = (480, 640)
"""Height and width in pixels of the encoder's image, where neither the user nor a checkpoint says (paper 7.1)."""


def preset_name(config: SPDConfig) -> str | None:
    """Name of the preset that `config` is, or None."""
    return next((name for name, preset in PRESETS.items() if preset == config), None)


def check_size(height: int, width: int, config: SPDConfig) -> None:
    """Raise ValueError unless the encoder can take images of `height` x `width` pixels (paper 2, 6.3b)."""
    stride = STRIDES[-1]
    if height < stride or width < stride or height % stride or width % stride:
        raise ValueError(f"size {height}x{width}: height and width must be positive multiples of {stride}")
    tokens = (height // stride) * (width // stride)
    if tokens < config.routed_tokens:
        raise ValueError(
            f"size {height}x{width} has {tokens} L4 tokens, but B3b routes {config.routed_tokens}: "
            f"take at least {config.routed_tokens * stride * stride} pixels, for example 128x160"
        )
