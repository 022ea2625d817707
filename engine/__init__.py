"""Why do these two images match? Saliency maps and attributes for image-similarity models, on ONNX Runtime."""
