"""Pages for people: the playground at ``/`` and ``/playground``, the API's reference at ``/docs``.

All their addresses are relative, so that they work below whatever path a proxy shows them.
"""

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from shared.ids import AssetKey

SWAGGER: Final = "static-offline-docs"  #: where fastapi_offline serves what Swagger's page needs
#: Scripts and styles come from files alone, pictures also from the storage, and nobody frames the page.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data: {storage}; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


class Pages(StaticFiles):
    """Files that are asked for anew at each visit, so that an update reaches everybody."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Answer with a file and the headers that guard it."""
        response = await super().get_response(path, scope)
        storage = urlsplit(scope["app"].state.services.objects.location(AssetKey("")))
        response.headers.update(
            {
                "Content-Security-Policy": POLICY.format(storage=f"{storage.scheme}://{storage.netloc}"),
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
                "Cache-Control": "no-cache",
            }
        )
        return response


def add(app: FastAPI) -> None:
    """Serve the pages."""
    pages = Pages(directory=Path(__file__).with_name("playground"))

    async def home(request: Request) -> Response:
        return await pages.get_response("index.html", request.scope)

    async def docs() -> Response:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"{app.title} API",
            swagger_js_url=f"{SWAGGER}/swagger-ui-bundle.js",
            swagger_css_url=f"{SWAGGER}/swagger-ui.css",
            swagger_favicon_url="playground/icon.svg",
        )

    app.add_api_route("/", home, methods=["GET", "HEAD"], include_in_schema=False)
    app.add_api_route("/docs", docs, include_in_schema=False)
    app.mount("/playground", pages)
