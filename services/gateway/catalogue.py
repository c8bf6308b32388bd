"""The public models, as the model service last listed them."""

from collections.abc import Sequence

from services.common.clock import Clock
from services.common.errors import NotFound, WeaverError
from services.gateway.ports import Model, ModelInfo

FRESH_S = 5.0


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
        self._read = float("-inf")

    async def models(self) -> Sequence[ModelInfo]:
        """Return every public model.

        Raises:
            Unavailable: the model service cannot be reached and never could.
        """
        now = self._clock.monotonic()
        if now - self._read >= FRESH_S:
            try:
                self._models = {model.id: model for model in await self._model.models()}
            except WeaverError:
                if not self._models:
                    raise
            self._read = now
        return list(self._models.values())

    async def find(self, name: str) -> ModelInfo:
        """Return a model by its public name.

        Raises:
            NotFound: there is no such model.
            Unavailable: the model service cannot be reached and never could.
        """
        if self._clock.monotonic() - self._read >= FRESH_S:
            await self.models()
        model = self._models.get(name)
        if model is None:
            msg = f"The model `{name[:128]}` does not exist or you may not use it."
            raise NotFound(msg, reason="MODEL_NOT_FOUND")
        return model
