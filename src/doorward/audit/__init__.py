"""What happened, provably: records, the Merkle tree, signed checkpoints and their verification."""
