"""The public models, as the model service last listed them."""

from collections.abc import Collection, Sequence

import msgspec

from services.common.clock import Clock
from services.common.errors import NotFound, WeaverError
from services.gateway.ports import Model, ModelInfo

FRESH_S = 5.0
LONGEST_NAME = 256
"""No model has a longer name: neither the limiter nor a record would hold it."""


class Catalogue:
    """Remembers the list of models for a few seconds, and longer while nobody can renew it.

    Args:
        model: the model service.
        clock: for the list's age.
    """

    def __init__(self, model: Model, clock: Clock) -> None:
        """See the class."""
        self._model = model
        self._clock = clock
        self._models: dict[str, ModelInfo] = {}
        self._patterns: list[ModelInfo] = []
        self._read = float("-inf")

    async def models(self, roles: Collection[str], named: str = "") -> Sequence[ModelInfo]:
        """Return every public model that a caller with these roles may use, patterns left out.

        Args:
            roles: the caller's.
            named: this model alone; one that a pattern stands for is under its own name.

        Raises:
            Unavailable: the model service cannot be reached and never could.
        """
        await self._renew()
        if named:
            exact = self._models.get(named)
            one = exact or self._matching(named)
            if one is None or (one is exact and one.pattern) or not _may_use(one, roles):
                return ()
            return (msgspec.structs.replace(one, id=named, pattern=False),)
        return [
            model for model in self._models.values() if not model.pattern and _may_use(model, roles)
        ]

    async def find(self, name: str, roles: Collection[str]) -> ModelInfo:
        """Return a model by its public name, or the pattern that matches it.

        Raises:
            NotFound: there is no such model, or none for a caller with these roles.
            Unavailable: the model service cannot be reached and never could.
        """
        await self._renew()
        model = self._models.get(name) or self._matching(name)
        if model is None or (model.roles and not _may_use(model, roles)):
            raise unknown_model(name)
        return model

    async def _renew(self) -> None:
        now = self._clock.monotonic()
        if now - self._read < FRESH_S:
            return
        try:
            models = await self._model.models()
        except WeaverError:
            if not self._models:
                raise
        else:
            self._models = {model.id: model for model in models}
            # The model service lists them the most exact first.
            self._patterns = [model for model in models if model.pattern]
        self._read = now

    def _matching(self, name: str) -> ModelInfo | None:
        if len(name) > LONGEST_NAME:
            return None
        for model in self._patterns:
            before, _, after = model.id.partition("*")
            if (
                len(name) > len(before) + len(after)
                and name.startswith(before)
                and name.endswith(after)
            ):
                return model
        return None


def unknown_model(name: str) -> NotFound:
    """Return the refusal of a model that is not there, or not for this caller."""
    msg = f"The model `{name[:128]}` does not exist or you may not use it."
    return NotFound(msg, reason="MODEL_NOT_FOUND")


def _may_use(model: ModelInfo, roles: Collection[str]) -> bool:
    return not model.roles or any(role in model.roles for role in roles)
