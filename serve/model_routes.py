"""The routes with which the platform manages the models of a multi-model endpoint."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, g, jsonify, request

from serve.errors import BadRequest, NoModel
from serve.invocation import Servable
from serve.models import Model, Models

__all__ = ["ROUTES", "many_models", "one_model"]

ROUTES = (
    "GET /ping, POST /models, GET /models, GET /models/NAME, DELETE /models/NAME, "
    "POST /models/NAME/invoke, GET /metrics"
)


def many_models(models: Models, answer: Callable[[Servable], Response]) -> Blueprint:
    """Return the routes around a registry; `answer` has a model answer the current request."""
    routes = Blueprint("models", __name__)

    @routes.post("/models")
    def load() -> Response:
        return jsonify(_described(models.load(*_wishes())))

    @routes.get("/models")
    def page() -> Response:
        page, following = models.page(request.args.get("next_page_token", ""))
        more = {} if following is None else {"nextPageToken": following}
        return jsonify({"models": [_described(model) for model in page], **more})

    @routes.get("/models/<name>")
    def get(name: str) -> Response:
        return jsonify(_described(models.get(name)))

    @routes.delete("/models/<name>")
    def unload(name: str) -> Response:
        models.unload(name)
        return jsonify({})

    @routes.post("/models/<name>/invoke")
    def invoke(name: str) -> Response:
        g.model = name
        with models.using(name, g.clock) as model:
            return answer(model)

    return routes


def one_model() -> Blueprint:
    """Return what stands in their place where a server has one model."""
    routes = Blueprint("models", __name__)

    @routes.route("/models", methods=["GET", "POST"])
    @routes.route("/models/<path:rest>", methods=["GET", "POST", "DELETE"])
    def refuse(rest: str = "") -> Response:
        raise NoModel(
            "this server has one model, at POST /invocations; "
            "with SAGEMAKER_MULTI_MODEL=true it has any number, at /models"
        )

    return routes


def _described(model: Model) -> dict[str, str]:
    return {"modelName": model.name, "modelUrl": model.url}


def _wishes() -> tuple[str, str]:
    """Read the name and the directory of a model to load."""
    body = request.get_json(force=True, silent=True)
    values = [body.get(key) if isinstance(body, dict) else None for key in ("model_name", "url")]
    name, url = (value if isinstance(value, str) else "" for value in values)
    if not name or not url or "/" in name:
        raise BadRequest(
            'send {"model_name": "a name without /", "url": "/opt/ml/models/NAME/model"}'
        )
    return name, url
