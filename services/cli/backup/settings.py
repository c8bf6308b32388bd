"""The settings of `weaver backup`: where the store is, as for the services that use it."""

from services.common.settings import split_address
from services.common.valkey_settings import StoreSettings


class BackupSettings(StoreSettings):
    """The store's settings, for a job that serves nobody and so needs no certificates."""

    def check(self) -> None:
        """Refuse what cannot be an address.

        Raises:
            SettingsError: naming the variable.
        """
        for sentinel in self.redis_sentinels:
            split_address(sentinel, "REDIS_SENTINELS")
