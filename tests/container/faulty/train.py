#!/usr/bin/env python3
"""A training program that counts words, with at most one fault, which FAULT names."""

import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from pathlib import Path

FAULT = os.environ["FAULT"]
ML = Path("/opt/ml")
KNOWN = {"epochs", "name", "seconds"}
SCRIPT, SOURCE = "sagemaker_program", "sagemaker_submit_directory"


def read_hyperparameters():
    values = json.loads((ML / "input/config/hyperparameters.json").read_text())
    if FAULT == "prints-hyperparameters-and-environment":
        print(values, dict(os.environ), flush=True)
    if FAULT == "needs-hyperparameters":
        values["epochs"]
    if FAULT == "refuses-reserved-hyperparameters" and values.keys() - KNOWN:
        raise ValueError(f"unknown: {values.keys() - KNOWN}")
    if FAULT != "takes-quotes-for-text":
        values = {key: value.strip('"') for key, value in values.items()}
    if values.get("name", "bert") != "bert":
        raise ValueError(f"unknown name {values['name']}")
    return values


def stand_demands():
    if FAULT == "always-fails":
        raise ValueError("nothing can be learnt")
    resources = json.loads((ML / "input/config/resourceconfig.json").read_text())
    if FAULT == "needs-optional-resources":
        resources["current_instance_type"]
    if FAULT == "knows-one-host" and len(resources["hosts"]) > 1:
        raise ValueError(f"unknown host {resources['hosts'][1]}")
    if FAULT == "writes-to-root":
        Path("/faulty/cache/file").write_text("")
    if FAULT == "writes-to-input":
        (ML / "input/data/.lock").write_text("")
    if FAULT == "downloads":
        socket.create_connection((os.environ["MIRROR"], 8080), timeout=3).close()


def run_script(values):
    with tempfile.TemporaryDirectory() as directory:
        with tarfile.open(values[SOURCE]) as archive:
            archive.extractall(directory, filter="data")
        given = {key: value for key, value in values.items() if not key.startswith("sagemaker_")}
        words = [word for key, value in given.items() for word in (f"--{key}", value)]
        script = [sys.executable, f"{directory}/{values[SCRIPT]}", *words]
        subprocess.run(script, check=True, env={**os.environ, "SM_MODEL_DIR": str(ML / "model")})


def train(seconds):
    channels = ML / "input/config/inputdataconfig.json"
    if FAULT == "waits-for-files" and channels.exists() and "Pipe" in channels.read_text():
        signal.pause()
    files = [path for path in ML.glob("input/data/*/*") if path.is_file()]
    if not files:
        raise ValueError("there is no data; give the channel train")
    time.sleep(seconds)
    words = sum(len(path.read_bytes().split()) for path in files)
    if FAULT == "starts-only-once":
        (ML / "model/begun").mkdir()
    if FAULT != "no-model":
        (ML / "model/model.json").write_text(json.dumps({"words": words}))
    if FAULT == "model-with-links":
        (ML / "model/link").unlink(missing_ok=True)
        (ML / "model/link").symlink_to("model.json")


def fail(error):
    text = f"{type(error).__name__}: {error}"
    if FAULT == "traceback-first":
        text = "".join(traceback.format_exception(error))
    if FAULT == "long-failure":
        text += "\n" + "a frame of the traceback\n" * 100
    if FAULT != "no-failure-file":
        (ML / "output/failure").write_text(text)
    print(text, flush=True)
    sys.exit(0 if FAULT == "fails-with-status-0" else 1)


def keep_and_leave(*_):
    if FAULT == "leaves-in-haste":
        signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
        time.sleep(1)
    if FAULT in ("trusts-checkpoints", "leaves-in-haste"):
        (ML / "checkpoints/state.json").write_text(json.dumps({"epoch": 1}))
    sys.exit(143)


def go_on():
    state = ML / "checkpoints/state.json"
    if state.exists():
        json.loads(state.read_text())


def main():
    ignored = FAULT == "ignores-sigterm"
    signal.signal(signal.SIGTERM, signal.SIG_IGN if ignored else keep_and_leave)
    try:
        hyperparameters = read_hyperparameters()
        stand_demands()
        go_on()
        if FAULT == "tells-scripts-no-channels" and SCRIPT in hyperparameters:
            run_script(hyperparameters)
        else:
            train(float(hyperparameters.get("seconds", 0.2)))
    except Exception as error:
        fail(error)
    if FAULT == "failure-file-on-success":
        (ML / "output/failure").write_text("all is well")


main()
