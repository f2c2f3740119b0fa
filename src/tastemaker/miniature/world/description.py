"""What a prompt says about a picture: frozen, validated, JSON-able. Everything else is in the layout."""

from dataclasses import dataclass
from typing import Any

from tastemaker.miniature.world.palette import COLOUR_RGB, GROUND_RGB, HAIR_RGB, SKIN_RGB, SKY_RGB
from tastemaker.miniature.world.record import pick_kind, record_from_dict, record_to_dict

CATEGORIES = ("general", "portrait", "landscape", "typography")
STYLES = ("plain", "line drawing", "pixel art", "sepia")
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
COLOURS = tuple(COLOUR_RGB)
SIZES = ("small", "medium", "large")
RELATIONS = ("left of", "right of", "above", "below")
MAX_COUNT = 4
MAX_GROUPS = 3
SKINS = tuple(SKIN_RGB)
HAIR_COLOURS = tuple(HAIR_RGB)
HAIR_STYLES = ("short", "long", "curly", "bun", "bald")
TIMES = tuple(SKY_RGB)
GROUNDS = tuple(GROUND_RGB)
WEATHERS = ("clear", "cloudy", "rainy", "snowy")
SKY_BODIES = ("none", "sun", "moon")
MAX_TREES = 3
LETTERS = "ACEHILNOPSTU"
MAX_LETTERS = 4


def _require(field: str, value: object, allowed: tuple) -> None:
    if value not in allowed or isinstance(value, bool) != isinstance(allowed[0], bool):
        raise ValueError(f"{field} is {value!r}; allowed: {', '.join(map(str, allowed))}")


@dataclass(frozen=True)
class Thing:
    """One group of equal objects."""

    shape: str
    colour: str
    size: str = "medium"
    count: int = 1

    def __post_init__(self) -> None:
        _require("shape", self.shape, SHAPES)
        _require("colour", self.colour, COLOURS)
        _require("size", self.size, SIZES)
        _require("count", self.count, tuple(range(1, MAX_COUNT + 1)))
        if self.count > 1 and self.size == "large":
            raise ValueError(f"size is 'large' with count {self.count}; allowed for counted things: small, medium")


@dataclass(frozen=True)
class General:
    """One to three groups; `relation` is of the first group relative to the second."""

    things: tuple[Thing, ...]
    relation: str | None = None
    style: str = "plain"

    def __post_init__(self) -> None:
        _require("style", self.style, STYLES)
        _require("relation", self.relation, (None, *RELATIONS))
        _require("number of things", len(self.things), tuple(range(1, MAX_GROUPS + 1)))
        if self.relation is not None and len(self.things) != 2:
            raise ValueError(f"relation is {self.relation!r} with {len(self.things)} things; allowed: exactly 2 things")
        if len(self.things) > 1 and any(thing.count > 1 for thing in self.things):
            counts = [thing.count for thing in self.things]
            raise ValueError(f"counts are {counts}; allowed: a count above 1 only in a scene of one thing")
        if len({(thing.shape, thing.colour) for thing in self.things}) < len(self.things):
            raise ValueError("two things share shape and colour; allowed: each pair once in a scene")
        if len(self.things) == 3 and sum(thing.size == "large" for thing in self.things) > 1:
            raise ValueError("size is 'large' more than once among 3 things; allowed: one large thing")

    @property
    def category(self) -> str:
        return "general"

    @property
    def kind(self) -> str:
        """One of single, count, pair, relation, three."""
        if self.relation:
            return "relation"
        if len(self.things) == 1:
            return "single" if self.things[0].count == 1 else "count"
        return "pair" if len(self.things) == 2 else "three"

    @property
    def objects(self) -> tuple[Thing, ...]:
        """One entry per drawn object, in layout order."""
        return tuple(thing for thing in self.things for _ in range(thing.count))


@dataclass(frozen=True)
class Portrait:
    """A cartoon head and shoulders; a bald head has no hair colour."""

    skin: str
    hair_style: str
    hair_colour: str | None
    clothing: str
    glasses: bool = False
    smile: bool = True
    style: str = "plain"

    def __post_init__(self) -> None:
        _require("skin", self.skin, SKINS)
        _require("hair_style", self.hair_style, HAIR_STYLES)
        bald = self.hair_style == "bald"
        _require("hair_colour of a bald head" if bald else "hair_colour", self.hair_colour, (None,) if bald else HAIR_COLOURS)
        _require("clothing", self.clothing, COLOURS)
        _require("glasses", self.glasses, (False, True))
        _require("smile", self.smile, (False, True))
        _require("style", self.style, STYLES)

    @property
    def category(self) -> str:
        return "portrait"


@dataclass(frozen=True)
class Landscape:
    """A sky over a ground; `is_valid` tells which combinations exist."""

    time: str
    ground: str
    weather: str = "clear"
    sky_body: str = "none"
    trees: int = 0
    mountains: bool = False
    style: str = "plain"

    def __post_init__(self) -> None:
        _require("time", self.time, TIMES)
        _require("ground", self.ground, GROUNDS)
        _require("weather", self.weather, WEATHERS)
        _require("sky_body", self.sky_body, SKY_BODIES)
        _require("trees", self.trees, tuple(range(MAX_TREES + 1)))
        _require("mountains", self.mountains, (False, True))
        _require("style", self.style, STYLES)
        if not is_valid(self.time, self.ground, self.sky_body, self.trees):
            raise ValueError(
                f"time {self.time!r}, ground {self.ground!r}, sky_body {self.sky_body!r}, trees {self.trees}; "
                "allowed: no sun at night, no moon by day, no trees on water"
            )

    @property
    def category(self) -> str:
        return "landscape"


def is_valid(time: str, ground: str, sky_body: str, trees: int) -> bool:
    """Whether a landscape with these facts can exist."""
    return (time, sky_body) not in {("night", "sun"), ("day", "moon")} and not (ground == "water" and trees > 0)


@dataclass(frozen=True)
class Typography:
    """One to four capital letters on a sign; the board's shade is not named."""

    text: str
    colour: str
    style: str = "plain"

    def __post_init__(self) -> None:
        if not 1 <= len(self.text) <= MAX_LETTERS or not set(self.text) <= set(LETTERS):
            raise ValueError(f"text is {self.text!r}; allowed: 1 to {MAX_LETTERS} letters of {LETTERS}")
        _require("colour", self.colour, COLOURS)
        _require("style", self.style, STYLES)

    @property
    def category(self) -> str:
        return "typography"


Description = General | Portrait | Landscape | Typography
_KINDS: dict[str, type] = {
    "general": General,
    "portrait": Portrait,
    "landscape": Landscape,
    "typography": Typography,
}


def to_dict(description: Description) -> dict[str, Any]:
    """JSON-able; `from_dict` gives an equal description back."""
    return record_to_dict(description)


def from_dict(values: dict[str, Any]) -> Description:
    """Inverse of `to_dict`; ValueError on unknown keys or values."""
    kind, rest = pick_kind(_KINDS, values)
    if kind is General and "things" in rest:
        rest["things"] = tuple(record_from_dict(Thing, thing) for thing in rest["things"])
    return record_from_dict(kind, rest)
