"""What the OpenAPI document knows of answers' fields beyond one example of each."""

from typing import Any, Final

from api.batch_view import ITEMS
from api.onemin_view import STATUSES as RECORD_STATUSES

REF: Final = "#/components/schemas/{model}"
TEXT_OR_NULL: Final = {"type": ["string", "null"]}
INSTANT: Final = {"type": "string", "format": "date-time"}
ESTIMATE: Final = {"type": ["number", "null"], "description": "until it ends, if nothing overtakes it"}
#: The data of each event, as JSON text.
TOLD: Final[dict[str, dict[str, Any]]] = {
    "QueuedEvent": {"required": ["queuePosition", "estimatedSeconds"], "properties": {"estimatedSeconds": ESTIMATE}},
    "RunningEvent": {"required": ["attempt", "step", "steps", "each"], "properties": {"estimatedSeconds": ESTIMATE}},
    "FinishedEvent": {"$ref": REF.format(model="RecordAnswer")},
}
#: Fields that one example does not say everything about.
FIELDS: Final[dict[str, dict[str, Any]]] = {
    "AssetAnswer": {"createdAt": INSTANT},
    "AssetLinks": {"createdAt": INSTANT},
    "DeletedAsset": {"deletedAt": INSTANT},
    "RecordAnswer": {"aiRecord": {"$ref": REF.format(model="AiRecord")}},
    "RecordList": {
        "aiRecords": {"type": "array", "items": {"$ref": REF.format(model="AiRecord")}},
        "nextCursor": TEXT_OR_NULL,
    },
    "AiRecord": {
        "metadata": {"description": "as it was sent"},
        "conversationId": TEXT_OR_NULL,
        "status": {"enum": sorted(set(RECORD_STATUSES.values()))},
        "createdAt": INSTANT,
        "teamUser": {"$ref": REF.format(model="TeamUser")},
        "promptObject": {"type": "object", "description": "as it was sent"},
        "resultObject": {
            "oneOf": [
                {"type": "array", "items": {"type": "string"}, "description": "keys of the variations"},
                {"type": "object", "required": ["code", "name", "message"], "description": "why it is a FAILURE"},
            ]
        },
        "additionalData": {"$ref": REF.format(model="AdditionalData")},
        "temporaryUrl": TEXT_OR_NULL,
    },
    "TeamUser": {"createdAt": INSTANT, "updatedAt": INSTANT},
    "BatchAnswer": {"batch": {"$ref": REF.format(model="Batch")}},
    "BatchList": {
        "batches": {"type": "array", "items": {"$ref": REF.format(model="Batch")}},
        "nextCursor": TEXT_OR_NULL,
    },
    "Batch": {
        "status": {"enum": ["PROCESSING", "SUCCESS", "CANCELED"]},
        "priority": {"enum": ["low", "normal"]},
        "metadata": {"type": "object", "description": "as it was sent"},
        "createdAt": INSTANT,
        "updatedAt": INSTANT,
        "finishedAt": {**INSTANT, "type": ["string", "null"]},
        "resultsUrl": {**TEXT_OR_NULL, "description": "a presigned link to a line of JSON for each item"},
        "nextAt": {**INSTANT, "type": ["string", "null"]},
        "at": INSTANT,
    },
    "ItemList": {
        "status": {"enum": sorted(set(ITEMS.values()))},
        "customId": TEXT_OR_NULL,
        "recordId": TEXT_OR_NULL,
        "error": {"type": ["object", "null"], "required": ["code", "message"]},
        "nextCursor": TEXT_OR_NULL,
    },
    "AdditionalData": {
        "flagged": {"type": "array", "items": {"type": "object", "required": ["seed", "score"]}},
        "safetyChecker": TEXT_OR_NULL,
        "queuePosition": {"type": ["integer", "null"], "minimum": 1},
        "progress": {"type": ["object", "null"], "required": ["step", "steps", "each"]},
        "estimatedSeconds": ESTIMATE,
        "priority": {"enum": ["normal", "low"]},
        "timings": {"type": "object", "additionalProperties": {"type": "number"}},
        "model": {"type": ["object", "null"], "required": ["base", "redux", "trained", "safety_checker"]},
        "user": TEXT_OR_NULL,
        "webhook": {"anyOf": [{"$ref": REF.format(model="Webhook")}, {"type": "null"}]},
        "deletedAt": {**INSTANT, "type": ["string", "null"]},
    },
    "Webhook": {
        "events": {"type": "array", "items": {"$ref": REF.format(model="WebhookEvent")}},
        "nextAt": {**INSTANT, "type": ["string", "null"]},
        "at": INSTANT,
    },
    **{
        name: {"data": {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}}
        for name, schema in TOLD.items()
    },
    "OneminError": {"value": {"description": "as it was sent"}},
    "OpenaiError": {"param": TEXT_OR_NULL},
}
