"""Discord's signalling language: messages, client machines, roster, IP discovery. Sans-I/O."""
