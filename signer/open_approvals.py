"""Lists the proposals that wait for administrators, and finds one by its digest."""

from collections.abc import Sequence
from dataclasses import dataclass

from signer.errors import InvalidInputError, NotFoundError
from signer.model.approval import Approval
from signer.ports.control_store import ControlStore


MAX_LISTED = 200
"""How many proposals are listed at most."""

SHOWN_DIGITS = 16
"""How many digits of a digest are shown to people; commands accept them."""

MAX_READ = 20_000
"""How many rows a list reads at most, to find what another program did not insert."""

_PAGE = 500

_MAX_ALIKE = 100


@dataclass(frozen=True, slots=True)
class OpenApprovals:
    """
    A page of what waits for a decision or for its execution.

    What administrators asked for comes first, then refunds, in which tenants take
    turns; of each, the oldest first.

    ``changed`` counts the rows that another program changed or inserted: they approve
    nothing, and are left out.  If more rows may be open, ``is_complete`` is False, and
    the next page starts at ``following``.
    """

    approvals: Sequence[Approval]
    changed: int
    following: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether no other row is open."""
        return self.following is None


def read_open_approvals(store: ControlStore, start: int = 0) -> OpenApprovals:
    """
    Return what waits, at most ``MAX_LISTED``, from row *start* on.

    A program that can write rows can insert thousands with an early time: they are read
    past, so that they hide no proposal.
    """
    found: list[Approval] = []
    changed, place = 0, start
    while place - start < MAX_READ:
        page = store.open_approvals(place, _PAGE)
        for row in page:
            if len(found) == MAX_LISTED:
                return OpenApprovals(found, changed, place)
            place += 1
            if row.is_authentic:
                found.append(row)
            else:
                changed += 1
        if len(page) < _PAGE:
            return OpenApprovals(found, changed)
    return OpenApprovals(found, changed, place)


def find_approval(store: ControlStore, digest: str) -> Approval:
    """
    Return the proposal whose digest begins with the digits of *digest*.

    Raises:
        InvalidInputError: *digest* is too short, or fits several proposals.
        NotFoundError: There is no such proposal, or another program changed it.
    """
    if len(digest) < SHOWN_DIGITS:
        raise InvalidInputError(
            f"must have at least {SHOWN_DIGITS} digits", field="digest"
        )
    stored = store.find_approval(digest)
    alike = [stored] if stored else store.approvals_like(digest, _MAX_ALIKE)
    found = [each for each in alike if each.is_authentic]
    if len(found) > 1 or (not found and len(alike) == _MAX_ALIKE):
        raise InvalidInputError(
            "begins the digests of several proposals: give all 64 digits",
            field="digest",
        )
    if not found:
        raise NotFoundError("there is no such proposal: see `hotwallet approvals list`")
    return found[0]
