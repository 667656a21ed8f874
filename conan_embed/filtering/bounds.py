"""The bounds within which a measured value passes, and how a recipe moves them."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from conan_embed.recipes.validation import Section


class Bounds(Section):
    """The values that pass: `minimum <= value <= maximum`; null means no bound."""

    minimum: float | None = None
    maximum: float | None = None

    def replaced_by(self, *overrides: "Bounds") -> "Bounds":
        """Return these bounds with each side taken from the last of `overrides` that sets it."""
        minimum, maximum = self.minimum, self.maximum
        for bounds in overrides:
            minimum = minimum if bounds.minimum is None else bounds.minimum
            maximum = maximum if bounds.maximum is None else bounds.maximum
        return Bounds(minimum=minimum, maximum=maximum)


class RuleSettings(Bounds):
    """What a recipe changes about one rule: `false` switches it off, the rest moves its bounds."""

    enabled: bool = True
    zh: Bounds = Bounds()
    en: Bounds = Bounds()
    skip: tuple[str, ...] = ()


def _switch(value: Any) -> Any:
    return {"enabled": value} if isinstance(value, bool) else value


RulesByName = dict[str, Annotated[RuleSettings, BeforeValidator(_switch)]]


def at_least(minimum: float) -> Bounds:
    return Bounds(minimum=minimum)


def at_most(maximum: float) -> Bounds:
    return Bounds(maximum=maximum)


def between(minimum: float, maximum: float) -> Bounds:
    return Bounds(minimum=minimum, maximum=maximum)
