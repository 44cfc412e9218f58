"""What training steps and a chapter cost, beside PyTorch: ``python -m benchmarks --help``."""
