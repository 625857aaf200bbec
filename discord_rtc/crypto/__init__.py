"""Hop-by-hop protection of RTP and RTCP packets between a client and a voice server. Sans-I/O.

Nothing here is end-to-end encryption: the server unprotects what it forwards.
"""
