"""A job as DescribeTrainingJob describes it, with paths of this machine instead of S3's."""

from __future__ import annotations

import datetime
import os
from typing import Any

from local_test.job import Job
from local_test.opt_ml import INSTANCE_TYPE

__all__ = ["REGION", "arn", "describe"]

REGION = os.environ.get("AWS_REGION", "us-east-1")
ACCOUNT = "123456789012"


def arn(name: str) -> str:
    """Return the TrainingJobArn of a job."""
    return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:training-job/{name}"


def describe(job: Job, image: str | None) -> dict[str, Any]:
    """Return the answer of DescribeTrainingJob, times in ISO 8601 as the AWS CLI prints them."""
    request = job.request
    times = [start for _, start in job.transitions]
    started = next(start for status, start in job.transitions if status == "Downloading")
    archive = job.archives.get("model.tar.gz", request.output / "model.tar.gz")
    optional = {
        "FailureReason": job.reason,
        "InputDataConfig": [_channel(job, name) for name in request.channels],
        "CheckpointConfig": request.checkpoints
        and {"S3Uri": request.checkpoints.resolve().as_uri(), "LocalPath": "/opt/ml/checkpoints"},
        "FinalMetricDataList": [
            {"MetricName": name, "Value": found[-1][1], "Timestamp": _time(found[-1][0])}
            for name, found in job.metrics.values.items()
            if found
        ],
    }
    return {
        "TrainingJobName": request.name,
        "TrainingJobArn": arn(request.name),
        "ModelArtifacts": {"S3ModelArtifacts": archive.resolve().as_uri()},
        "TrainingJobStatus": job.status,
        "SecondaryStatus": job.secondary_status,
        **{name: value for name, value in optional.items() if value},
        "HyperParameters": dict(request.hyperparameters),
        "AlgorithmSpecification": {
            **({"TrainingImage": image} if image else {}),
            "TrainingInputMode": "File",
            "MetricDefinitions": [
                {"Name": name, "Regex": regex} for name, regex in request.metrics.items()
            ],
        },
        "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/local",
        "OutputDataConfig": {
            "S3OutputPath": request.output.resolve().as_uri(),
            "CompressionType": "GZIP",
        },
        "ResourceConfig": {
            "InstanceType": INSTANCE_TYPE,
            "InstanceCount": request.instances,
            "VolumeSizeInGB": 30,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": round(request.max_runtime)},
        "CreationTime": _time(times[0]),
        "TrainingStartTime": _time(started),
        "TrainingEndTime": _time(times[-1]),
        "LastModifiedTime": _time(times[-1]),
        "SecondaryStatusTransitions": [
            {"Status": status, "StartTime": _time(start), "EndTime": _time(end)}
            for (status, start), end in zip(job.transitions, [*times[1:], times[-1]], strict=True)
        ],
        "EnableNetworkIsolation": request.isolated,
        "EnableManagedSpotTraining": bool(request.interruptions),
        "TrainingTimeInSeconds": round(times[-1] - started),
        "BillableTimeInSeconds": round(job.billable_seconds),
        "Environment": dict(request.environment),
    }


def _channel(job: Job, name: str) -> dict[str, Any]:
    request = job.request
    source = {
        "S3DataType": "S3Prefix",
        "S3Uri": request.channels[name].resolve().as_uri(),
        "S3DataDistributionType": (
            "ShardedByS3Key" if name in request.sharded else "FullyReplicated"
        ),
    }
    content_type = request.content_types.get(name)
    return {
        "ChannelName": name,
        "DataSource": {"S3DataSource": source},
        **({"ContentType": content_type} if content_type else {}),
        "InputMode": request.input_modes.get(name, "File"),
    }


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")
