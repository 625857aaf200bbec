"""One voice connection: gateway socket, transport and media pipelines put together.

Everything here runs on asyncio. Nothing here knows which transport carries the packets.
"""
