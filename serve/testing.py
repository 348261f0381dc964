"""Try a model, with your own inference code or without, in a test of yours and without a container.

    from serve.testing import Client

    def test_positive():
        with Client("model", program="code/inference.py") as client:
            answer = client.post({"inputs": "I like it"})
        assert answer.status == 200
        assert answer.json()[0]["label"] == "positive"

The request takes the same way as on the service, but for the sockets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from serve.app import create_app
from serve.servables import servable_for
from serve.settings import Settings

__all__ = ["Answer", "Client"]


@dataclass(frozen=True)
class Answer:
    """What a client of the endpoint gets."""

    status: int
    content_type: str | None
    body: bytes
    headers: Mapping[str, str]

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        """Return what the body says as JSON."""
        return json.loads(self.body)


class Client:
    """A server of one model, in this process."""

    def __init__(
        self,
        model: str | Path,
        program: str | Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: its directory, what /opt/ml/model is in a container.
            program: the file of your inference code; if there is none at this path, it is looked
                for where the server looks: in `code` of the model directory, and in that itself.
            environment: variables as the container would have them. Those of this process count
                only where your own code reads them.

        Raises:
            UserCodeError: your code fails; what it raised is the `__cause__`.
            ArtifactError: the directory cannot be used.
            SettingsError: a variable has a value that is not allowed.
        """
        variables = dict(environment or {})
        if program is not None:
            file = Path(program).absolute()
            variables["SAGEMAKER_PROGRAM"] = file.name if file.is_file() else str(program)
            if file.is_file():
                variables["SAGEMAKER_SUBMIT_DIRECTORY"] = str(file.parent)
        directory = Path(model).absolute()
        settings = replace(Settings.from_environment(variables), model=directory)
        self._model = servable_for(directory, settings)
        self._model.load(directory, settings)
        self._client = create_app(self._model, settings).test_client()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the model, and forget the modules of your code."""
        self._model.unload()

    def post(
        self,
        data: Any,
        content_type: str | None = None,
        accept: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send `POST /invocations`.

        Args:
            data: with a `content_type` the body itself, a text or bytes; else what is sent as JSON.
            content_type: the body's type.
            accept: the type that the answer is to have.
            headers: further ones, such as X-Amzn-SageMaker-Custom-Attributes.
        """
        body = data if content_type else json.dumps(data)
        sent = {"Content-Type": content_type or "application/json", **(headers or {})}
        if accept:
            sent["Accept"] = accept
        return self._ask("POST", "/invocations", body, sent)

    def ping(self) -> Answer:
        """Send `GET /ping`."""
        return self._ask("GET", "/ping")

    def _ask(
        self, method: str, path: str, body: str | bytes = b"", headers: Mapping[str, str] = {}
    ) -> Answer:
        answer = self._client.open(path, method=method, data=body, headers=dict(headers))
        return Answer(
            answer.status_code,
            answer.headers.get("Content-Type"),
            answer.data,
            dict(answer.headers),
        )
