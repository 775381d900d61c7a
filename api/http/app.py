"""The WSGI application."""

import falcon

from api.container import Container
from api.extension import find_routes
from api.http import documentation, events, problems, refunds
from api.http.concurrency import ConcurrencyMiddleware, WaitingRequests
from api.http.middleware import AuthorizationMiddleware, RequestLog
from api.http.operations import Parts
from signer.config.settings import Role
from signer.config.tenants import TenantRegistry


class App(falcon.App[falcon.Request, falcon.Response]):
    """Falcon's application, with the *tenants* that take turns in the server."""

    def __init__(self, tenants: TenantRegistry) -> None:
        super().__init__()
        self.tenants = tenants


def create_app(container: Container) -> App:
    """Return the application over the parts of *container*, with its role's routes."""
    app = App(container.tenants)
    authorization = AuthorizationMiddleware(
        container.authenticator, container.access, proxies=container.proxies
    )
    threads = container.settings.threads
    concurrency = ConcurrencyMiddleware(threads, app.tenants)
    waiting = WaitingRequests(threads, app.tenants)
    log = RequestLog(container.shared_meter.answered)
    app.add_middleware([log, authorization, concurrency])
    problems.install(app)
    parts = Parts(container, waiting, documentation.Description(app))
    role = container.settings.serve_role
    if role in {Role.ALL, Role.REFUNDS}:
        parts.open_refunds()
        for routes in (refunds.ROUTES, events.ROUTES, events.KEYS):
            routes.add_to(app, parts)
    if role in {Role.ALL, Role.ADMIN}:
        from api.http.administration import add_administration  # noqa: PLC0415

        add_administration(app, parts)
    for add_routes in find_routes(role):
        add_routes(app, container, authorization, waiting)
    documentation.PROBES.add_to(app, parts)
    documentation.ROUTES.add_to(app, parts)
    return app
