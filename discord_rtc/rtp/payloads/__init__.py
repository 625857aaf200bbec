"""Payload formats: how one encoded frame is cut into RTP payloads and put together again.

One module per RFC, found by codec through the registry in ``base``. Sans-I/O.
"""
