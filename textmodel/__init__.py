"""Text models as a directory: written by `train`, read by `serve`, aware of neither."""

import sys

# OpenVINO reports every conversion to its maker over the network, unless this cannot be imported.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
