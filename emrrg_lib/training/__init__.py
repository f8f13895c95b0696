"""Training: the engine (transformers.Trainer), pre-training (stages 1 and 2), stage 3, ablations."""
