"""IETF media language: RTP, RTCP, header extensions, payload formats, streams. Sans-I/O.

Bytes and times go in, values and bytes come out. Nothing in here knows sockets, pixels or
what the packets are for.
"""
