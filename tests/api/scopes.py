"""The scopes that operations of the API require."""

from api.http.openapi.document import complete_document


SCOPES = sorted(
    {
        scope
        for operations in complete_document()["paths"].values()
        for operation in operations.values()
        for required in operation.get("security", ())
        for scope in required.get("bearerToken", ())
    }
)
