"""From a checkpoint to two verified ONNX graphs: deployment form, precision, parity gate, `spd-export`."""
