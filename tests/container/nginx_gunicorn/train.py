#!/usr/bin/env python3
"""Learn the centroid of each class from rows of numbers with the class in front."""

import csv
import json
import sys
import traceback
from pathlib import Path

import numpy as np

ML = Path("/opt/ml")


def train():
    files = sorted(ML.glob("input/data/training/*"))
    if not files:
        raise ValueError("There are no files in the channel training")
    rows = [row for file in files for row in csv.reader(file.open())]
    json.loads((ML / "input/config/hyperparameters.json").read_text()).get("max_leaf_nodes")
    classes = np.array([row[0] for row in rows])
    features = np.array([row[1:] for row in rows], dtype=float)
    means = {name: features[classes == name].mean(axis=0).tolist() for name in sorted(set(classes))}
    (ML / "model/centroids.json").write_text(json.dumps(means))
    print("Training complete.")


try:
    train()
except Exception as error:
    trace = traceback.format_exc()
    (ML / "output/failure").write_text(f"Exception during training: {error}\n{trace}")
    print(f"Exception during training: {error}\n{trace}", file=sys.stderr)
    sys.exit(255)
