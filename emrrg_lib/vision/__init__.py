"""The vision encoder: patches, selective scan, four-direction Mamba mixer, checkpoints."""
