"""The OpenAPI document: what FastAPI cannot see of routes that read their bodies and headers by hand."""

import json
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, NamedTuple

from fastapi.routing import APIRoute
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from api.onemin_requests import Submission
from api.openai import PREFIXES
from api.openai_requests import VariationForm
from api.openapi_fields import FIELDS, REF, TOLD
from api.problems import OPENAI, onemin_envelope, openai_envelope, status_of
from api.repeats import LONGEST
from shared import errors

ABOUT: Final = """
FLUX.1 Redux image variations. `POST /api/assets` takes an image, `POST /api/features` makes variations of it and
`GET /api/results/{uuid}` tells how far they are; `POST /v1/openai/images/variations` does it all in one call.
"""
EXAMPLES: Final = Path(__file__).with_name("examples.json")
EVENTS: Final = "text/event-stream"
FILE: Final = {"type": "string", "format": "binary"}
SECURITY: Final = {
    "API-KEY": {"type": "apiKey", "in": "header", "name": "API-KEY"},
    "Bearer": {"type": "http", "scheme": "bearer"},
    "X-Auth-Token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token", "description": "`Bearer <key>`"},
}
HEADERS: Final[dict[str, dict[str, Any]]] = {
    "x-request-id": {"schema": {"type": "string"}, "description": "what the log calls the request; send your own"},
    "Retry-After": {"schema": {"type": "integer", "minimum": 1}, "description": "seconds until trying again may help"},
    "Location": {"schema": {"type": "string"}, "description": "a presigned link"},
    "x-job-id": {"schema": {"type": "string", "format": "uuid"}, "description": "`GET /api/results/{x-job-id}`"},
}
IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "the same request sent again within 24 hours acts once",
    "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST},
}
CALL: Final = (errors.Unauthorized, errors.TooManyRequests, errors.Unavailable)  #: how any call with a key may fail
BODY: Final = (errors.InvalidRequest, errors.UploadTooLarge, errors.UnsupportedMediaType, errors.IdempotencyKeyReused)
JOB: Final = (*BODY, errors.UnsupportedModel, errors.InsufficientCredits)
BATCH: Final = (errors.InvalidRequest, errors.UploadTooLarge, errors.IdempotencyKeyReused, errors.InsufficientCredits)


class Operation(NamedTuple):
    """What a route takes and gives beside what its signature says."""

    answers: tuple[str, ...] = ()  #: names of their schemas and examples
    body: dict[str, Any] | None = None  #: by media type
    refusals: tuple[type[errors.ReduxqError], ...] = ()  #: beside :data:`CALL`
    status: int = 200
    header: str | None = None  #: that the answer carries
    media_type: str = "application/json"
    public: bool = False  #: no key is asked for, and nothing refused


def operation_id(route: APIRoute) -> str:
    """Return a name for generated clients: the function's, and where it stands if that is in several places."""
    place = next((prefix for prefix in ("/teams", *PREFIXES) if route.path.startswith(f"{prefix}/")), "")
    return route.name + (f"_at{place.replace('/', '_')}" if place else "")


class _Untitled(GenerateJsonSchema):
    """Pydantic's, without a title made of each field's name."""

    def field_title_should_be_set(self, _: Any) -> bool:
        return False


def describe(document: dict[str, Any], models: Sequence[str]) -> None:
    """Complete the document that FastAPI made of the routes; ``models`` are the OpenAI facade's."""
    examples: dict[str, Any] = json.loads(EXAMPLES.read_text(encoding="utf-8"))
    examples |= _made_of(examples)
    operations = _operations(examples)
    document["info"]["description"] = ABOUT
    document["security"] = [{name: []} for name in SECURITY]
    document["components"] = {"schemas": _schemas(examples, models), "securitySchemes": SECURITY}
    for path, methods in document["paths"].items():
        for shown in methods.values():
            name = shown["operationId"]
            operation = operations.get(name) or operations[name.partition("_at_")[0]]
            _complete(shown, operation, examples)
            refusals = () if operation.public else (*CALL, *operation.refusals)
            shown["responses"] = _answered(operation, examples)
            _refused(shown["responses"], refusals, examples["fault"], openai=path.startswith(OPENAI))


def _made_of(examples: Mapping[str, Any]) -> dict[str, Any]:
    """Return the examples that say nothing new."""
    answer = examples["RecordAnswer"]
    return {
        "BatchList": {"batches": [examples["BatchAnswer"]["batch"]], "nextCursor": "1761457440076000"},
        "RecordList": {"aiRecords": [answer["aiRecord"]], "nextCursor": examples["cursor"]},
        "FinishedEvent": {"event": "finished", "id": "1-succeeded-0", "data": json.dumps(answer)},
    }


def _operations(examples: Mapping[str, Any]) -> dict[str, Operation]:
    """Return all operations by their ids, or the part of those that stands in several places alike."""
    asset = {"multipart/form-data": {"schema": _object(asset=FILE), "example": examples["AssetForm"]}}
    linked = {"application/json": {"schema": _ref("FileUrl"), "example": examples["FileUrl"]}}
    feature = {"application/json": {"schema": _ref("Submission"), "example": examples["Submission"]}}
    form = {"multipart/form-data": {"schema": _ref("VariationForm"), "example": examples["VariationForm"]}}
    manifest = {"application/jsonl": {"schema": {"type": "string"}, "example": examples["Manifest"]}}
    ended = (errors.JobError, errors.ContentFlagged, errors.NotFound, errors.StillRunning)
    return {
        "create_asset": Operation(("AssetAnswer",), asset, BODY),
        "create_asset_at_teams": Operation(("AssetAnswer",), asset | linked, (*BODY, errors.NotFound)),
        "read_asset": Operation(("AssetLinks",), None, (errors.NotFound,)),
        "remove_asset": Operation(("DeletedAsset",), None, (errors.InvalidRequest, errors.NotFound)),
        "create_feature": Operation(("RecordAnswer",), feature, JOB),
        "create_feature_at_teams": Operation(("RecordAnswer",), feature, (*JOB, errors.NotFound)),
        "list_results": Operation(("RecordList",), None, (errors.InvalidRequest,)),
        "read_result": Operation(("RecordAnswer", "NoRecord"), None, (errors.InvalidRequest,)),
        "remove_result": Operation(("RecordAnswer", "NoRecord"), None, (errors.NotFound,)),
        "cancel_result": Operation(("RecordAnswer",), None, (errors.NotFound,)),
        "create_batch": Operation(("BatchAnswer",), manifest, BATCH),
        "list_batches": Operation(("BatchList",), None, (errors.InvalidRequest,)),
        "read_batch": Operation(("BatchAnswer", "NoBatch"), None, (errors.InvalidRequest,)),
        "list_items": Operation(("ItemList",), None, (errors.InvalidRequest, errors.NotFound)),
        "cancel_batch": Operation(("BatchAnswer",), None, (errors.NotFound,)),
        "retry_batch": Operation(("BatchAnswer",), None, (errors.NotFound,)),
        "remove_batch": Operation(("NoBatch",), None, (errors.InvalidRequest, errors.NotFound)),
        "watch_result": Operation(tuple(TOLD), None, (errors.NotFound,), media_type=EVENTS),
        "list_models": Operation(("Models",), public=True),
        "read_image": Operation((), None, (errors.NotFound,), 307, "Location"),
        "read_user": Operation(("UserAnswer",)),
        "read_credits_at_teams": Operation(("Credits",), None, (errors.NotFound,)),
        "create_variation": Operation(("Images", "ImageLinks"), form, (*JOB, *ended), header="x-job-id"),
        "list_names": Operation(("ModelNames",)),
        "health": Operation(("Health",), public=True),
        "ready": Operation(("Readiness",), public=True),
    }


def _complete(shown: dict[str, Any], operation: Operation, examples: Mapping[str, Any]) -> None:
    """Say what an operation takes."""
    for parameter in shown.setdefault("parameters", []):
        if example := examples["parameters"].get(parameter["name"]):
            parameter["example"] = example
    if operation.body:
        shown["requestBody"] = {"required": True, "content": operation.body}
        shown["parameters"].append(IDEMPOTENCY_KEY)
    if operation.public:
        shown["security"] = []


def _answered(operation: Operation, examples: Mapping[str, Any]) -> dict[str, Any]:
    header = [operation.header] if operation.header else []
    answer = {"description": HTTPStatus(operation.status).phrase, "headers": _headers(*header)}
    if operation.answers:
        schemas = [_ref(name) for name in operation.answers]
        shown = {name: {"value": examples[name]} for name in operation.answers}
        schema = {"anyOf": schemas} if len(schemas) > 1 else schemas[0]
        answer["content"] = {operation.media_type: {"schema": schema, "examples": shown}}
    answers = {str(operation.status): answer}
    if "Readiness" in operation.answers:
        answers["503"] = answer | {"description": "A server that it stands on does not answer"}
    if operation.media_type == EVENTS:
        answers["204"] = {"description": "The event in Last-Event-ID was the last", "headers": _headers()}
    return answers


def _refused(
    responses: dict[str, Any], refusals: Iterable[type[errors.ReduxqError]], fault: dict[str, Any], *, openai: bool
) -> None:
    """Add the errors, each with its example, to an operation's responses."""
    for kind in refusals:
        status = status_of(kind, openai=openai)
        later = ["Retry-After"] if issubclass(kind, errors.TooManyRequests | errors.Unavailable) else []
        empty = {"schema": _ref("OpenaiError" if openai else "OneminError"), "examples": {}}
        new = {"description": status.phrase, "headers": _headers(*later), "content": {"application/json": empty}}
        response = responses.setdefault(str(int(status)), new)
        envelope = _envelope(kind, fault, openai=openai)
        response["content"]["application/json"]["examples"][kind.code] = {"value": envelope}


def _envelope(kind: type[errors.ReduxqError], fault: dict[str, Any], *, openai: bool) -> dict[str, Any]:
    invalid = kind is errors.InvalidRequest
    message = f"{fault['field']}: {fault['message']}" if invalid else str(kind.__doc__)
    details = (fault,) if invalid else ()
    if openai:
        return openai_envelope(status_of(kind, openai=True), kind.code, message, details)
    return onemin_envelope(kind.code, message, details)


def _schemas(examples: Mapping[str, Any], models: Sequence[str]) -> dict[str, Any]:
    _, requests = models_json_schema(
        [(Submission, "validation"), (VariationForm, "validation")], ref_template=REF, schema_generator=_Untitled
    )
    schemas: dict[str, Any] = requests["$defs"]
    fields = {name: _form_field(field) for name, field in schemas["VariationForm"]["properties"].items()}
    fields["model"] = {"enum": list(models), "default": models[0]}
    for name in ("aspect_ratio", "megapixels"):  # the page would send their defaults beside a size, which says both
        fields[name]["default"] = ""
    schemas["VariationForm"] |= {"required": ["image"], "properties": {"image": FILE, **fields}}
    record = examples["RecordAnswer"]["aiRecord"]
    given = {name: examples[name] for name in examples if name[0].isupper()} | {
        "AiRecord": record,
        "Batch": examples["BatchAnswer"]["batch"],
        "TeamUser": record["teamUser"],
        "AdditionalData": record["additionalData"],
        "Webhook": record["additionalData"]["webhook"],
        "OneminError": _envelope(errors.InvalidRequest, examples["fault"], openai=False),
        "OpenaiError": _envelope(errors.InvalidRequest, examples["fault"], openai=True),
    }
    return {name: _schema_of(example, FIELDS.get(name, {})) for name, example in given.items()} | schemas


def _form_field(field: dict[str, Any]) -> dict[str, Any]:
    """Return a field's schema without null, which a form cannot carry; one left empty is as one not sent."""
    kinds = [kind for kind in field.pop("anyOf", []) if kind != {"type": "null"}]
    default = {"default": ""} if field.get("default") is None else {}
    return field | default | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})


def _schema_of(example: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of all that looks like an example; of some fields, by their names, more is known."""
    if isinstance(example, dict):
        fields = {name: known.get(name) or _schema_of(value, known) for name, value in example.items()}
        return {"type": "object", "required": list(fields), "properties": fields}
    if isinstance(example, list):
        return {"type": "array", "items": _schema_of(example[0], known)}
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return {"type": names[type(example)]}


def _object(**fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(fields), "properties": fields}


def _headers(*names: str) -> dict[str, Any]:
    return {name: HEADERS[name] | {"required": True} for name in ("x-request-id", *names)}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": REF.format(model=name)}
