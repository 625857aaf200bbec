"""End-to-end encryption (DAVE): group membership, transitions and frames. Sans-I/O."""
