"""Just enough ICE for a lite peer. Sans-I/O. Spec: RFC 8489, RFC 8445, RFC 7675."""
