"""How a route comes by what it works with."""

from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from api.services import Services


def services_of(request: Request) -> Services:
    """Return the services of the application that serves this request."""
    services: Services = request.app.state.services
    return services


async def _services(request: Request) -> Services:
    return services_of(request)  # FastAPI runs a plain function in a thread


ServicesDep = Annotated[Services, Depends(_services)]
