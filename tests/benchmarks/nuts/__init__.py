"""The parts of `bench_nuts.py`: problems that each sampler gets in its own terms, and one file a sampler."""
