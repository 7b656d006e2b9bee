"""Random materials of indoor things: paint, wood, cloth, metal, floors, walls, ceilings."""

from __future__ import annotations

import colorsys

import numpy as np

from spd.data.rooms.textures import RGB, Material


def pick(rng: np.random.Generator, *choices: str) -> str:
    """One of the choices, each as likely."""
    return choices[int(rng.integers(len(choices)))]


def tone(
    rng: np.random.Generator, hue: tuple[float, float], grey: tuple[float, float], dark: tuple[float, float]
) -> RGB:
    """A random linear colour from ranges of hue (0..1, red 0, green 0.33), saturation and brightness as seen (0..1)."""
    a, b, c = rng.random(3).tolist()
    seen = colorsys.hsv_to_rgb(
        (hue[0] + a * (hue[1] - hue[0])) % 1.0, grey[0] + b * (grey[1] - grey[0]), dark[0] + c * (dark[1] - dark[0])
    )
    return (seen[0] ** 2.2, seen[1] ** 2.2, seen[2] ** 2.2)


def _scaled(colour: RGB, factor: float) -> RGB:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def paint(rng: np.random.Generator, vivid: float = 0.3) -> Material:
    """Painted or lacquered surface; `vivid` is the chance of a strong colour."""
    if rng.random() < vivid:
        colour = tone(rng, (0, 1), (0.25, 0.9), (0.25, 0.9))
    else:
        colour = tone(rng, (0.05, 0.2), (0.0, 0.15), (0.1, 0.95))
    return Material(colour, grain=0.02, blotch=0.02, gloss=rng.uniform(0, 0.5))


def wood(rng: np.random.Generator) -> Material:
    """Wood with its grain along u."""
    colour = tone(rng, (0.04, 0.11), (0.3, 0.75), (0.18, 0.85))
    size = (rng.uniform(0.1, 0.4), rng.uniform(0.008, 0.02))
    return Material(
        colour, grain=rng.uniform(0.05, 0.18), grain_size=size, blotch=rng.uniform(0, 0.08), gloss=rng.uniform(0, 0.6)
    )


def fabric(rng: np.random.Generator) -> Material:
    """Upholstery or bedding: plain, striped or checked."""
    if rng.random() < 0.5:
        colour = tone(rng, (0, 1), (0.2, 0.85), (0.12, 0.85))
    else:
        colour = tone(rng, (0.02, 0.15), (0.0, 0.3), (0.1, 0.95))
    second, cell, checker = _scaled(colour, rng.uniform(0.3, 1.6)), (50.0, 50.0), 0.0
    if rng.random() < 0.25:
        wide = rng.uniform(0.03, 0.15)
        cell, checker = (wide, wide if rng.random() < 0.4 else 50.0), rng.uniform(0.3, 1.0)
    return Material(
        colour, second, cell, checker=checker, grain=rng.uniform(0.03, 0.15), grain_size=(0.012, 0.012), blotch=0.07
    )


def metal(rng: np.random.Generator) -> Material:
    """Dark or bright, glossy."""
    colour = tone(rng, (0.5, 0.65), (0.0, 0.1), (0.08, 0.75))
    return Material(colour, gloss=rng.uniform(0.4, 1.0), blotch=0.08)


def anything(rng: np.random.Generator) -> Material:
    """A small thing: packed, printed, painted, turned or cast."""
    kind = pick(rng, "paint", "vivid", "vivid", "wood", "fabric", "print", "metal", "white")
    if kind == "print":
        return Material(tone(rng, (0, 1), (0, 0.7), (0.3, 0.9)), art=rng.uniform(0.3, 1.0), gloss=0.3)
    if kind == "white":
        return Material(tone(rng, (0.1, 0.2), (0, 0.08), (0.8, 0.97)), gloss=0.5)
    if kind == "vivid":
        return paint(rng, 1.0)
    return {"paint": paint, "wood": wood, "fabric": fabric, "metal": metal}[kind](rng)


def floor(rng: np.random.Generator) -> Material:
    """Planks, tiles, carpet or concrete."""
    kind = pick(rng, "planks", "planks", "tiles", "tiles", "checks", "carpet", "carpet", "carpet tiles", "concrete")
    if kind == "planks":
        base = wood(rng)
        high = rng.uniform(0.06, 0.2)
        return Material(
            base.colour, _scaled(base.colour, 0.3), (rng.uniform(0.6, 2.0), high), joint=rng.uniform(0.002, 0.006),
            shift=rng.uniform(0.2, 0.8), tint=rng.uniform(0.05, 0.6), grain=base.grain, grain_size=base.grain_size,
            blotch=0.05, gloss=rng.uniform(0.0, 0.7),
        )  # fmt: skip
    if kind in {"tiles", "checks"}:
        colour = tone(rng, (0.02, 0.15), (0.0, 0.4), (0.35, 0.92))
        side = rng.uniform(0.15, 0.6)
        return Material(
            colour, tone(rng, (0.02, 0.6), (0, 0.3), (0.1, 0.8)), (side, side * float(rng.choice([1.0, 1.0, 0.5]))),
            joint=rng.uniform(0.004, 0.015), shift=float(rng.choice([0.0, 0.0, 0.5])),
            checker=rng.uniform(0.2, 0.9) if kind == "checks" else 0.0, tint=rng.uniform(0, 0.25),
            grain=0.03, grain_size=(0.03, 0.03), blotch=rng.uniform(0.01, 0.12), gloss=rng.uniform(0.1, 0.9),
        )  # fmt: skip
    if kind == "concrete":
        return Material(tone(rng, (0.05, 0.15), (0, 0.15), (0.3, 0.7)), grain=0.06, blotch=0.15, gloss=0.2)
    colour = tone(rng, (0, 1) if rng.random() < 0.4 else (0.05, 0.15), (0.02, 0.6), (0.2, 0.8))
    cell = (rng.uniform(0.4, 0.6),) * 2 if kind == "carpet tiles" else (50.0, 50.0)
    return Material(
        colour, _scaled(colour, 0.7), cell, tint=rng.uniform(0.05, 0.3), grain=rng.uniform(0.04, 0.14),
        grain_size=(rng.uniform(0.008, 0.03),) * 2, blotch=rng.uniform(0.02, 0.1),
    )  # fmt: skip


def wall(rng: np.random.Generator) -> Material:
    """Paint mostly; wallpaper, brick, panels or wall tiles."""
    kind = pick(rng, *["paint"] * 6, "stripes", "pattern", "brick", "panels", "tiles")
    if rng.random() < 0.65:
        colour = tone(rng, (0.05, 0.2), (0.0, 0.2), (0.65, 0.97))
    else:
        colour = tone(rng, (0, 1), (0.1, 0.55), (0.35, 0.92))
    second = _scaled(colour, rng.uniform(0.5, 0.9))
    if kind == "stripes":
        return Material(colour, second, (rng.uniform(0.05, 0.3), 50.0), checker=rng.uniform(0.2, 0.8), blotch=0.02)
    if kind == "pattern":
        side = rng.uniform(0.06, 0.25)
        return Material(colour, second, (side, side), shift=0.5, joint=side * 0.3, grain=0.04, blotch=0.02)
    if kind == "brick":
        colour = tone(rng, (0.0, 0.08), (0.1, 0.65), (0.3, 0.85))
        return Material(
            colour, tone(rng, (0.08, 0.1), (0, 0.1), (0.4, 0.8)), (rng.uniform(0.2, 0.4), rng.uniform(0.07, 0.2)),
            joint=0.012, shift=0.5, tint=0.4, grain=0.1, blotch=0.1,
        )  # fmt: skip
    if kind == "panels":
        return Material(colour, _scaled(colour, 0.4), (rng.uniform(0.1, 1.2), 50.0), joint=0.008, tint=0.06, grain=0.04)
    if kind == "tiles":
        side = rng.uniform(0.1, 0.3)
        return Material(colour, second, (side, side), joint=0.006, tint=0.06, gloss=0.7)
    return Material(colour, grain=0.015, grain_size=(0.01, 0.01), blotch=rng.uniform(0.01, 0.05))


def ceiling(rng: np.random.Generator) -> Material:
    """White; plain or of square panels."""
    colour = tone(rng, (0.08, 0.2), (0.0, 0.08), (0.75, 0.97))
    if rng.random() < 0.3:
        return Material(colour, _scaled(colour, 0.6), (0.6, float(rng.choice([0.6, 1.2]))), joint=0.02, grain=0.06)
    return Material(colour, grain=0.02, blotch=0.02)
