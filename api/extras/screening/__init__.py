"""A service of the operator's that screens recipients (``SCREENING_URL``)."""

from api.extension import Extra


EXTRA = Extra(
    name="screening",
    services={"screening": "api.extras.screening.client:open_screening"},
    doctor_checks="api.extras.screening.client:doctor_checks",
)
