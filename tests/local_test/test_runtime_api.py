"""The runtime API in front of a small server, asked by boto3's own client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

from local_test.async_inference import AsyncInference, StorageError, path_of
from local_test.hosting import Endpoint
from local_test.loopback import listen, serving
from local_test.runtime_api import INPUT_HEADERS, OUTPUT_HEADERS, RENAMED, create_app
from tests.local_test.conftest import MB, QUICK, Serve

Client = Any
Expose = Callable[..., str]
PREFIX = "X-Amzn-SageMaker-"


@pytest.fixture
def expose() -> Iterator[Expose]:
    """Yield a function that puts the API in front of an endpoint, and returns its address."""
    with ExitStack() as stack:

        def start(endpoint: Endpoint, *rest: Any) -> str:
            listener = stack.enter_context(listen(0))
            return stack.enter_context(serving(create_app(endpoint, *rest), listener))

        yield start


def client_of(address: str) -> Client:
    return boto3.client(
        "sagemaker-runtime",
        endpoint_url=address,
        region_name="eu-central-1",
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=Config(retries={"max_attempts": 0}, proxies={}),
    )


@pytest.fixture
def client(serve: Serve, expose: Expose) -> Client:
    return client_of(expose(serve(), "known"))


def ask(client: Client, body: object, **more: str) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body)
    return client.invoke_endpoint(EndpointName="known", Body=content, **more)


def refused(client: Client, body: object, **more: str) -> Any:
    """Return the error's fields."""
    with pytest.raises(ClientError) as caught:
        ask(client, body, **more)
    return caught.value.response


# Headers


def operation(name: str) -> Any:
    session = botocore.session.get_session()
    return session.get_service_model("sagemaker-runtime").operation_model(name)


@pytest.mark.parametrize("name", RENAMED)
def test_every_header_of_botocores_model_is_passed_on_with_its_limit(name: str) -> None:
    given_back = {
        "InputLocation", "InvocationTimeoutSeconds", "RequestTTLSeconds", "S3OutputPathExtension",
        "Filename",
    }  # fmt: skip
    expected = {
        shape.serialization["name"]: shape.metadata["max"]
        for member, shape in operation(name).input_shape.members.items()
        if shape.serialization.get("location") == "header" and member not in given_back
    }
    renamed = {RENAMED[name].get(header, header): n for header, n in INPUT_HEADERS.items()}
    assert {header: renamed.get(header) for header in expected} == expected


def test_every_header_of_the_answer_of_botocores_model_comes_back() -> None:
    members = operation("InvokeEndpoint").output_shape.members.values()
    headers = {shape.serialization.get("name") for shape in members} - {None}
    assert headers == {*OUTPUT_HEADERS, "x-Amzn-Invoked-Production-Variant"}


def test_invocation_reaches_the_container_as_it_was_sent(client: Client) -> None:
    answer = ask(
        client,
        b"a,\xc3\xa9\r\n",
        ContentType="text/csv; charset=utf-8",
        Accept="application/json",
        CustomAttributes="trace=7",
        InferenceId="row-1",
    )
    seen = json.loads(answer["Body"].read())
    assert seen["body"] == "a,é\r\n"
    headers = {name: value for name, value in seen["headers"].items() if name != "Host"}
    assert headers == {
        "Content-Type": "text/csv; charset=utf-8",
        "Accept": "application/json",
        f"{PREFIX}Custom-Attributes": "trace=7",
        f"{PREFIX}Inference-Id": "row-1",
        "Content-Length": "6",
    }


def test_other_headers_are_stripped(serve: Serve, expose: Expose) -> None:
    url = f"{expose(serve())}/endpoints/any/invocations"
    headers = {"X-Mine": "1", "Authorization": "secret", "Cookie": "a=b", "x-amzn-Other": "2"}
    seen = requests.post(url, data=b"x", headers=headers, timeout=60).json()["headers"]
    assert {name.lower() for name in seen} == {"host", "accept", "content-length"}


def test_answer_has_the_containers_attributes_and_no_other_headers(client: Client) -> None:
    headers = {
        "Content-Type": "text/csv",
        "x-amzn-sagemaker-custom-attributes": "took=3",
        "X-Mine": "1",
    }
    answer = ask(client, {"body": "a,b", "headers": headers})
    assert answer["Body"].read() == b"a,b"
    assert (answer["ContentType"], answer["CustomAttributes"]) == ("text/csv", "took=3")
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    assert "x-mine" not in answer["ResponseMetadata"]["HTTPHeaders"]


def test_attributes_of_the_request_do_not_come_back_by_themselves(client: Client) -> None:
    assert "CustomAttributes" not in ask(client, b"x", CustomAttributes="a=b")


def test_session_that_the_container_opens_is_told(client: Client) -> None:
    opened = "s1; Expires=2030-01-01T00:00:00Z"
    answer = ask(client, {"body": "", "headers": {f"{PREFIX}New-Session-Id": opened}})
    assert answer["NewSessionId"] == opened


def test_header_that_is_too_long_is_a_validation_error(client: Client) -> None:
    error = refused(client, b"x", CustomAttributes="a" * 1025)
    assert error["Error"]["Code"] == "ValidationError"
    assert "less than or equal to 1024" in error["Error"]["Message"]


# Errors


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "client"), (404, "client"), (429, "client"), (500, "server"), (503, "server")],
)
def test_status_of_the_container_becomes_a_model_error(
    client: Client, status: int, kind: str
) -> None:
    error = refused(client, {"status": status, "body": '{"why": "é"}'})
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert error["Error"]["Code"] == "ModelError"
    assert error["Error"]["Message"].startswith(
        f'Received {kind} error ({status}) from primary with message "{{"why": "é"}}". See https://'
    )
    assert error["OriginalStatusCode"] == status
    assert error["OriginalMessage"] == '{"why": "é"}'
    assert error["LogStreamArn"].endswith(":log-group:/aws/sagemaker/Endpoints/known")


def test_messages_are_cut_to_what_the_api_allows(client: Client) -> None:
    error = refused(client, {"status": 500, "body": "x" * 5000})
    assert error["OriginalMessage"] == "x" * 2048
    assert len(error["Error"]["Message"]) == 2048
    assert error["Error"]["Message"].endswith("for more information.")


def test_model_error_is_the_one_that_scripts_catch(client: Client) -> None:
    with pytest.raises(client.exceptions.ModelError):
        ask(client, {"status": 500})


def test_late_answer_is_a_model_error_with_status_0(serve: Serve, expose: Expose) -> None:
    client = client_of(expose(serve(replace(QUICK, invocation=1))))
    error = refused(client, {"sleep": 20})
    assert (error["Error"]["Code"], error["OriginalStatusCode"]) == ("ModelError", 0)
    assert error["OriginalMessage"].startswith("Your invocation timed out while waiting")


def test_container_that_dies_meanwhile_is_a_model_error(client: Client) -> None:
    error = refused(client, {"exit": True})
    assert (error["Error"]["Code"], error["OriginalStatusCode"]) == ("ModelError", 0)


def test_largest_body_is_answered_and_a_byte_more_is_a_validation_error(client: Client) -> None:
    largest = b'{"body": "read", "rest": "%s"}'
    largest %= b"x" * (MB - len(largest) + 2)
    assert ask(client, largest)["Body"].read() == b"read"
    error = refused(client, b"x" * (MB + 1))["Error"]
    assert error["Code"] == "ValidationError"
    assert "has oversize body" in error["Message"]
    assert "1048577 bytes, the limit of this endpoint is 1048576 bytes (1 MB)" in error["Message"]


def test_body_far_over_the_limit_still_gets_its_answer(client: Client) -> None:
    assert refused(client, b"x" * (30 * MB))["Error"]["Code"] == "ValidationError"


def test_answer_over_the_limit_is_a_model_error(client: Client) -> None:
    error = refused(client, {"body": "x" * 1024, "times": 1025})
    assert error["Error"]["Code"] == "ModelError"
    assert "the limit is 1048576 bytes" in error["OriginalMessage"]


def test_unknown_endpoint_is_a_validation_error(client: Client) -> None:
    with pytest.raises(ClientError, match=r"Endpoint other of account \d{12} not found") as caught:
        client.invoke_endpoint(EndpointName="other", Body=b"")
    assert caught.value.response["Error"]["Code"] == "ValidationError"


def test_any_name_is_known_where_none_was_given(serve: Serve, expose: Expose) -> None:
    client = client_of(expose(serve()))
    assert client.invoke_endpoint(EndpointName="whatever", Body=b"x")["Body"].read()


def test_path_of_no_operation_is_told(serve: Serve, expose: Expose) -> None:
    answer = requests.post(f"{expose(serve())}/invocations", timeout=60)
    assert answer.status_code == 404
    assert answer.headers["x-amzn-errortype"] == "UnknownOperationException"


# Clients


SCRIPT = """
import boto3
answer = boto3.client("sagemaker-runtime").invoke_endpoint(EndpointName="e", Body=b"hello")
print(answer["Body"].read().decode())
"""


def test_script_runs_unchanged_with_the_address_in_its_environment(
    serve: Serve, expose: Expose, tmp_path: Path
) -> None:
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": expose(serve()),
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
    }
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["body"] == "hello", done.stderr


def test_file_that_boto3_reads_while_it_sends_arrives(client: Client, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"x" * 100_000)
    with (tmp_path / "body").open("rb") as file:
        answer = client.invoke_endpoint(EndpointName="known", Body=file)
    assert len(json.loads(answer["Body"].read())["body"]) == 100_000


# InvokeEndpointWithResponseStream


def stream(client: Client, body: object) -> Any:
    return client.invoke_endpoint_with_response_stream(
        EndpointName="known", Body=json.dumps(body), Accept="text/event-stream"
    )


def test_parts_come_as_the_container_sends_them(client: Client) -> None:
    answer = stream(client, {"parts": ["one", "two", "three"]})
    assert answer["ContentType"] == "text/event-stream"
    parts = [event["PayloadPart"]["Bytes"] for event in answer["Body"]]
    assert parts == [b"one", b"two", b"three"]


def test_first_part_comes_before_the_last_is_there(client: Client, tmp_path: Path) -> None:
    events = iter(stream(client, {"parts": ["one", "two"], "until": str(tmp_path / "go")})["Body"])
    assert next(events) == {"PayloadPart": {"Bytes": b"one"}}
    (tmp_path / "go").touch()
    assert list(events) == [{"PayloadPart": {"Bytes": b"two"}}]


def test_stream_that_breaks_off_ends_with_an_exception(client: Client) -> None:
    answer = stream(client, {"parts": ["one"], "break": True})
    with (
        closing(answer["Body"]) as events,
        pytest.raises(EventStreamError, match=r"ModelStreamError.*StreamBroken"),
    ):
        list(events)


def test_stream_that_takes_too_long_ends_with_an_exception(serve: Serve, expose: Expose) -> None:
    client = client_of(expose(serve(replace(QUICK, stream=1))))
    answer = stream(client, {"parts": ["one", "two"], "until": "/never"})
    with (
        closing(answer["Body"]) as events,
        pytest.raises(EventStreamError, match=r"ModelStreamError.*ModelInvocationTimeExceeded"),
    ):
        list(events)


def test_error_before_the_stream_is_a_model_error(client: Client) -> None:
    with pytest.raises(client.exceptions.ModelError):
        stream(client, {"status": 400, "body": "no"})


# InvokeEndpointAsync


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    (tmp_path / "s3/bucket/in").mkdir(parents=True)
    (tmp_path / "s3/bucket/in/one.json").write_text('{"name": "one", "body": "done"}')
    (tmp_path / "s3/bucket/in/bad.json").write_text('{"status": 400, "body": "bad input"}')
    return tmp_path / "s3"


@pytest.fixture
def line(serve: Serve, expose: Expose, storage: Path) -> Iterator[Client]:
    endpoint = serve(replace(QUICK, payload=1000))
    queue = AsyncInference(endpoint, storage, "s3://bucket/out")
    yield client_of(expose(endpoint, "", queue))
    queue.close()


def submit(client: Client, **arguments: Any) -> Any:
    return client.invoke_endpoint_async(EndpointName="known", **arguments)


def content(storage: Path, location: str) -> bytes:
    path = path_of(storage, location)
    deadline = time.monotonic() + 60
    while not path.is_file():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return path.read_bytes()


def test_answer_of_an_asynchronous_request_is_stored(line: Client, storage: Path) -> None:
    answer = submit(line, InputLocation="s3://bucket/in/one.json", InferenceId="mine")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert answer["InferenceId"] == "mine"
    assert answer["OutputLocation"].startswith("s3://bucket/out/")
    assert content(storage, answer["OutputLocation"]) == b"done"


def test_failure_is_stored_in_its_place(line: Client, storage: Path) -> None:
    answer = submit(line, InputLocation="s3://bucket/in/bad.json")
    assert content(storage, answer["FailureLocation"]) == b"bad input"
    assert not path_of(storage, answer["OutputLocation"]).exists()


def test_types_of_an_asynchronous_request_reach_the_container(line: Client, storage: Path) -> None:
    answer = submit(
        line, Body=b"a,b", ContentType="text/csv", Accept="text/plain", Filename="x.csv"
    )
    assert answer["OutputLocation"] == "s3://bucket/out/x.csv"
    seen = json.loads(content(storage, answer["OutputLocation"]))
    assert seen["body"] == "a,b"
    assert (seen["headers"]["Content-Type"], seen["headers"]["Accept"]) == (
        "text/csv",
        "text/plain",
    )


def test_late_asynchronous_answer_is_a_failure(line: Client, storage: Path) -> None:
    answer = submit(line, Body=b'{"sleep": 20}', InvocationTimeoutSeconds=1)
    assert b"no answer within 1 s" in content(storage, answer["FailureLocation"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"InputLocation": "s3://bucket/in/none"}, "There is nothing at s3://bucket/in/none"),
        ({"InputLocation": "https://bucket/in"}, "no location of the form s3://BUCKET/KEY"),
        ({"InputLocation": "s3://bucket/../../x"}, "no location of the form s3://BUCKET/KEY"),
        ({"Body": b"x" * 128_001}, "the limit of this endpoint is 128000 bytes"),
        ({}, "One of InputLocation and Body is needed"),
        (
            {"Body": b"x", "RequestTTLSeconds": 21601},
            "RequestTTLSeconds has to be from 60 to 21600",
        ),
    ],
)
def test_faulty_asynchronous_request_is_refused(
    line: Client, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ClientError, match=message) as caught:
        submit(line, **arguments)
    assert caught.value.response["Error"]["Code"] == "ValidationError"


def test_asynchronous_endpoint_has_no_other_operation(line: Client, client: Client) -> None:
    with pytest.raises(ClientError, match="an asynchronous endpoint"):
        ask(line, b"x")
    with pytest.raises(ClientError, match="a real-time endpoint"):
        submit(client, Body=b"x")


def test_output_has_to_lie_in_s3(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="s3://BUCKET/KEY"):
        AsyncInference(serve(), tmp_path, "/tmp/out")
