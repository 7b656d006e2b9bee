"""ONNX graphs to proven TensorRT engines: `spd-build`. Bundles land in sub-folders of this one, which git ignores."""
