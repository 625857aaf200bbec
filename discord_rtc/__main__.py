"""``python -m discord_rtc`` is ``discord-rtc``."""

from discord_rtc.cli import main

if __name__ == "__main__":
    main()
