"""Model repositories for NVIDIA's Triton Inference Server, made from a bundle."""
