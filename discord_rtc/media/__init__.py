"""Pixels and samples: tracks, sources, sinks and codecs. PyAV lives here.

Everything that touches PyAV is synchronous and is called from a worker thread by one
caller at a time; tracks belong to the event loop. Only `track` imports aiortc, which
costs a third of a second.
"""
