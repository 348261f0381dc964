"""Text models as a directory: written by `train`, read by `serve`, aware of neither."""
