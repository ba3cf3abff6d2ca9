"""Generated scenes of one or two coloured shapes, with captions.

A scene is 64 x 64 RGB. One object is at a place (left, right, top, bottom, centre); two are beside
or above each other. Each scene has five correct captions. Some combinations of colours and shapes
are held out: they never occur in training, but each colour and each shape does.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

SIZE = 64
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (214, 52, 44),
    "green": (62, 160, 72),
    "blue": (48, 92, 204),
    "yellow": (236, 200, 44),
    "purple": (138, 66, 170),
    "white": (240, 240, 236),
}
SIZES = {"small": 8, "large": 13}
PLACES = {
    "on the left": (16, 32),
    "on the right": (48, 32),
    "at the top": (32, 16),
    "at the bottom": (32, 48),
    "in the centre": (32, 32),
}
BESIDE, ABOVE = len(PLACES), len(PLACES) + 1
HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class Thing:
    size: str
    colour: str
    shape: str

    @property
    def text(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """``layout`` is the index of a place, BESIDE (first is left) or ABOVE (first is on top)."""

    id: str
    things: tuple[Thing, ...]
    layout: int
    seed: int

    def captions(self) -> tuple[str, ...]:
        if len(self.things) == 1:
            return _of_one(self.things[0], tuple(PLACES)[self.layout])
        return _of_two(*self.things, beside=self.layout == BESIDE)

    def labels(self) -> tuple[int, ...]:
        """Shape, colour and size of the first and of the second object (0: none), and layout."""
        first, second = self.things[0], self.things[1] if len(self.things) > 1 else None
        return (*_labels(first), *((0, 0, 0) if second is None else _labels(second)), self.layout)


LABELS = (len(SHAPES) + 1, len(COLOURS) + 1, len(SIZES) + 1) * 2 + (len(PLACES) + 2,)
"""The number of values of each label."""


def make_scenes(count: int, seed: int, *, held_out: bool) -> list[Scene]:
    """Returns ``count`` scenes of held-out combinations, or of the others."""
    draw = np.random.default_rng([seed, int(held_out)])
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = _draw(draw, f"{'held-out' if held_out else 'scene'}-{len(scenes):05d}")
        if is_held_out(scene) == held_out:
            scenes.append(scene)
    return scenes


def is_held_out(scene: Scene) -> bool:
    """By a hash of colours, shapes and, for one object, its place."""
    parts = sorted(f"{thing.colour} {thing.shape}" for thing in scene.things)
    if len(parts) == 1:
        parts.append(str(scene.layout))
    digest = hashlib.sha256(" + ".join(parts).encode()).digest()
    return digest[0] < HELD_OUT_SHARE * 256


def render(scene: Scene) -> np.ndarray:
    """uint8 [64, 64, 3]; a grey, slightly noisy background; positions vary by a few pixels."""
    draw = np.random.default_rng(scene.seed)
    image = np.full((SIZE, SIZE, 3), draw.integers(70, 120), np.float32)
    image += draw.normal(0, 6, image.shape)
    for thing, (x, y) in zip(scene.things, _centres(scene, draw), strict=True):
        image[_mask(thing.shape, x, y, SIZES[thing.size])] = COLOURS[thing.colour]
    return np.clip(image, 0, 255).astype(np.uint8)


def _draw(draw: np.random.Generator, name: str) -> Scene:
    count = int(draw.integers(1, 3))
    things = tuple(_thing(draw) for _ in range(count))
    layout = (
        int(draw.integers(len(PLACES))) if count == 1 else int(draw.integers(BESIDE, ABOVE + 1))
    )
    return Scene(name, things, layout, int(draw.integers(2**31)))


def _thing(draw: np.random.Generator) -> Thing:
    pick = (tuple(SIZES), tuple(COLOURS), SHAPES)
    return Thing(*(str(names[int(draw.integers(len(names)))]) for names in pick))


def _centres(scene: Scene, draw: np.random.Generator) -> list[tuple[float, float]]:
    if len(scene.things) == 1:
        centres = [tuple(PLACES.values())[scene.layout]]
    elif scene.layout == BESIDE:
        centres = [(16, 32), (48, 32)]
    else:
        centres = [(32, 16), (32, 48)]
    return [(x + draw.uniform(-3, 3), y + draw.uniform(-3, 3)) for x, y in centres]


def _mask(shape: str, x: float, y: float, radius: float) -> np.ndarray:
    """The pixels of the shape; bool [64, 64]."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    across, down = columns - x, rows - y
    inside: np.ndarray = np.maximum(abs(across), abs(down)) <= radius
    if shape == "circle":
        inside = across**2 + down**2 <= radius**2
    elif shape == "square":
        inside = np.maximum(abs(across), abs(down)) <= radius * 0.9
    elif shape == "triangle":
        inside = (down <= radius * 0.8) & (abs(across) <= (down + radius) * 0.6)
    else:
        arm = radius * 0.35
        inside &= (abs(across) <= arm) | (abs(down) <= arm)
    return inside


def _labels(thing: Thing) -> tuple[int, int, int]:
    return (
        SHAPES.index(thing.shape) + 1,
        tuple(COLOURS).index(thing.colour) + 1,
        tuple(SIZES).index(thing.size) + 1,
    )


def _of_one(thing: Thing, place: str) -> tuple[str, ...]:
    return (
        f"a {thing.text} {place}",
        f"there is a {thing.text} {place}",
        f"{place} there is a {thing.text}",
        f"one {thing.text} {place}",
        f"a single {thing.text} {place}",
    )


def _of_two(first: Thing, second: Thing, *, beside: bool) -> tuple[str, ...]:
    forth, back = ("left of", "right of") if beside else ("above", "below")
    return (
        f"a {first.text} {forth} a {second.text}",
        f"there is a {first.text} {forth} a {second.text}",
        f"one {first.text} {forth} one {second.text}",
        f"a {second.text} {back} a {first.text}",
        f"there is a {second.text} {back} a {first.text}",
    )
