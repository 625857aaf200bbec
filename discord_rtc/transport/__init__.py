"""Sockets. The seam between media and network: `base` names it, the others implement it."""
