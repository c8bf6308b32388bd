"""From a public model name to the targets that can answer for it.

A route knows what a model costs and how long its context is. It refuses names that nobody declared.
"""

from collections.abc import Iterable, Iterator

import msgspec

from services.common.errors import NotFound, Unimplemented
from services.model.call import Dialect
from services.model.ports import Provider
from services.model.usage import Prices


class Target(msgspec.Struct, frozen=True):
    """One provider and the name by which it knows the model."""

    provider: Provider
    model: str
    prices: Prices = Prices()


class Route(msgspec.Struct, frozen=True):
    """A public model.

    Args:
        name: what clients call it.
        targets: in the order in which they are tried; never empty.
        context_tokens: prompt and answer together; 0 when not known.
        max_output_tokens: the longest answer; 0 when not known.
        created: when it was declared, in Unix seconds; 0 when not known.
    """

    name: str
    targets: tuple[Target, ...]
    context_tokens: int = 0
    max_output_tokens: int = 0
    created: int = 0

    @property
    def dialects(self) -> frozenset[Dialect]:
        """The dialects that can reach it."""
        return frozenset().union(*(target.provider.dialects for target in self.targets))

    @property
    def dearest(self) -> Prices:
        """The highest prices among its targets, for a bound that holds whichever answers."""
        return Prices(
            max(target.prices.input_micros for target in self.targets),
            max(target.prices.output_micros for target in self.targets),
        )

    def targets_for(self, dialect: Dialect) -> tuple[Target, ...]:
        """Return the targets that speak a dialect.

        Raises:
            Unimplemented: none does.
        """
        found = tuple(target for target in self.targets if dialect in target.provider.dialects)
        if not found:
            msg = f"The model {self.name!r} cannot be reached through {dialect.value}."
            raise Unimplemented(msg)
        return found


class Routes:
    """Every public model, sorted by name."""

    def __init__(self, routes: Iterable[Route]) -> None:
        """Take the routes; of two with one name the later holds."""
        self._routes = {route.name: route for route in sorted(routes, key=lambda route: route.name)}

    def __iter__(self) -> Iterator[Route]:
        """Return them in order."""
        return iter(self._routes.values())

    def find(self, model: str) -> Route:
        """Return the route of a public name.

        Raises:
            NotFound: nobody declared it.
        """
        route = self._routes.get(model)
        if route is None:
            msg = f"The model {model[:100]!r} does not exist."
            raise NotFound(msg, reason="MODEL_NOT_FOUND")
        return route
