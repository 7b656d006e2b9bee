"""The TensorRT runtime: engines and contexts, lanes with captured graphs, CUDA memory."""
