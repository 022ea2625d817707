"""From a trained PyTorch model or an ONNX file to a bundle that `engine` runs."""
