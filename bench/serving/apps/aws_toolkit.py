"""AWS's own entry point, with its files in TMPDIR and its server on loopback only.

Run with the environment `aws-toolkit`. The toolkit writes its configuration to /etc and listens on
all addresses, neither of which is right on a developer's machine; nothing else is changed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from sagemaker_huggingface_inference_toolkit import (  # type: ignore[import-not-found]
    mms_model_server,
    serving,
)
from sagemaker_inference import model_server  # type: ignore[import-not-found]

config = str(Path(tempfile.gettempdir()) / "mms.properties")
model_server.MMS_CONFIG_FILE = mms_model_server.MMS_CONFIG_FILE = config
generate = model_server._generate_mms_config_properties
model_server._generate_mms_config_properties = lambda *arguments: generate(*arguments).replace(
    "0.0.0.0", "127.0.0.1"
)
serving.main()
