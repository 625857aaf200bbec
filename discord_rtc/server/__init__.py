"""The local voice server: Discord's main gateway, voice gateway and media server in one object,
for development and tests without an account.
"""

from discord_rtc.server.faults import Faults
from discord_rtc.server.front import AddressInUse
from discord_rtc.server.local import LocalServer

__all__ = ["AddressInUse", "Faults", "LocalServer"]
