"""ONNX Runtime sessions of exported bundles, loaded, warmed and swapped while traffic flows."""
