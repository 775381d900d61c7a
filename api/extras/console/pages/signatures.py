"""The page of the signatures."""

from falcon import Request, Response

from api.extras.console.explorers import Explorers
from api.extras.console.pages.search_fields import next_page, read_sequence
from api.extras.console.pages.session_page import SessionPage
from api.extras.console.signatures import PATHS, SignatureFilter, search_signatures
from api.http import query


class SignaturesPage(SessionPage):
    """``/console/signatures``: what was signed, for whom, and by which rule."""

    def on_get(self, req: Request, resp: Response) -> None:
        """Show a page of the signatures that the search fields describe."""
        names = ("actor", "path", "network", "rule", "since", "until", "before")
        given = query.parameters(req, *names, from_form=True)
        wanted = SignatureFilter(
            given.get("actor"),
            given.get("path"),
            given.get("network"),
            given.get("rule"),
            query.moment(given, "since"),
            query.moment(given, "until"),
        )
        container = self._console.container
        networks = container.networks
        found = search_signatures(
            container.store,
            container.row_macs,
            networks,
            wanted,
            read_sequence(given),
        )
        self.show(
            req,
            resp,
            "signatures.html",
            found=found,
            given=given,
            following=next_page(given, "before", found.before),
            paths=PATHS,
            networks=list(networks),
            policy=container.policy.short_hash,
            explorers=Explorers.of(networks),
        )
