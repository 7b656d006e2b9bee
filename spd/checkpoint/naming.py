"""Tensors in a checkpoint by name, and where in it the names of a network are.

A checkpoint is a tree: containers such as `state_dict` hold names such as `model.encoder.x`. Both are taken apart at
their dots, so that a container and a prefix are the same thing: the place of a network is what comes before its names.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts that DistributedDataParallel, torch.compile, FSDP and activation checkpointing add anywhere in a name."""

COUNTERS = frozenset({"n_averaged", "steps", "step", "initted", "decay", "num_updates"})
"""Numbers that averages keep beside the weights: those of torch, mmengine, ema-pytorch and latent-diffusion."""

DEPTH = 8  # containers inside each other
VISITS = 4  # of one container: a pickle can hold itself, and can hold one thing under many names


class Leaf(NamedTuple):
    """A tensor in a file."""

    parts: tuple[str, ...]
    """Its containers' names and its own, taken apart at the dots, without `WRAPPERS`."""
    container: int
    """Number of the container that it is in."""
    tensor: Tensor


class Tree(NamedTuple):
    """Tensors in a file."""

    leaves: list[Leaf]
    lists: dict[str, list[Tensor]]
    """Lists of tensors, which have a place but no names."""


@dataclass(eq=False)
class Place:
    """What a file has of a network's weights under one prefix."""

    name: str
    """The prefix with dots, for people; empty for weights that have none."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    """By the network's names, in the order of the file."""
    others: list[str] = field(default_factory=list)
    """Names of tensors beside them, under the same prefix, that are of no whole network."""
    twice: list[str] = field(default_factory=list)
    """Names of the network that the file has in two spellings, such as with and without a wrapper's."""
    counted: bool = False
    """Whether torch's AveragedModel has left its counter beside the weights."""

    def same_numbers(self, other: Place) -> bool:
        """Whether all weights are equal to those of a place of the same names."""
        return all(_equal(tensor, other.weights[name]) for name, tensor in self.weights.items())


def _equal(one: Tensor, other: Tensor) -> bool:
    if one is other:
        return True
    comparable = one.dtype == other.dtype and one.layout == other.layout and not one.is_meta and not other.is_meta
    return comparable and one.equal(other)


def tensors(content: Any) -> Tree:
    """All tensors of a file that lie in mappings with names, or in lists of nothing else."""
    leaves: list[Leaf] = []
    lists: dict[str, list[Tensor]] = {}
    visits: Counter[int] = Counter()
    waiting: deque[tuple[tuple[str, ...], Any, int]] = deque([((), content, 0)])
    number = 0
    while waiting:
        prefix, container, depth = waiting.popleft()
        visits[id(container)] += 1
        if depth > DEPTH or visits[id(container)] > VISITS:
            continue
        number += 1
        if isinstance(container, Mapping):
            entries = dict(container)
        elif not isinstance(container, list | tuple):
            continue
        elif container and all(isinstance(value, Tensor) for value in container):
            lists[".".join(prefix)] = list(container)
            continue
        else:
            entries = {str(index): value for index, value in enumerate(container)}
        for key, value in entries.items():
            if not isinstance(key, str):
                continue
            parts = (*prefix, *(part for part in key.split(".") if part not in WRAPPERS))
            if isinstance(value, Tensor):
                leaves.append(Leaf(parts, number, value))
            else:
                waiting.append((parts, value, depth + 1))
    return Tree(leaves, lists)


def places(tree: Tree, names: Iterable[str]) -> list[Place]:
    """Every prefix under which a file has some of the `names`, those with the most of them first.

    latent-diffusion writes the names of its average without their dots; those are found too.
    """
    known = {name: name for name in names}
    whole = len(known)
    squeezed = Counter(name.replace(".", "") for name in known)
    known |= {short: name for name in known if squeezed[short := name.replace(".", "")] == 1}
    longest = max((name.count(".") + 1 for name in known), default=0)
    found: dict[tuple[str, ...], Place] = {}
    containers: dict[tuple[str, ...], set[int]] = defaultdict(set)
    matched: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for index, leaf in enumerate(tree.leaves):
        for split in range(max(0, len(leaf.parts) - longest), len(leaf.parts)):
            prefix = leaf.parts[:split]
            name = known.get(".".join(leaf.parts[split:]))
            if name is None:
                continue
            place = found.setdefault(prefix, Place(".".join(prefix)))
            if name in place.weights:
                place.twice.append(name)
            place.weights[name] = leaf.tensor
            containers[prefix].add(leaf.container)
            matched[prefix].add(index)
    of_whole = {index for prefix, place in found.items() if len(place.weights) == whole for index in matched[prefix]}
    for prefix, place in found.items():
        beside = {
            leaf.parts[len(prefix) :]
            for index, leaf in enumerate(tree.leaves)
            if leaf.container in containers[prefix]
            and leaf.parts[: len(prefix)] == prefix
            and index not in matched[prefix] | of_whole
        }
        place.counted = ("n_averaged",) in beside
        place.others = [".".join(parts) for parts in sorted(beside) if len(parts) > 1 or parts[0] not in COUNTERS]
    return sorted(found.values(), key=lambda place: -len(place.weights))
