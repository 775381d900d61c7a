"""What drills check belongs to a step that a guide has."""

from api.extras.drills.checks import CHECKS, VARIABLES
from api.extras.drills.runbooks import load_runbooks, steps_of
from dev.reference_pages import PAGES, ROOT


def test_each_check_has_its_step_and_each_step_its_guide() -> None:
    """A check without a step would never run; a part without a place is not shown."""
    guides = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)

    assert {*load_runbooks()} == {*CHECKS} == {*VARIABLES}
    for name, parts in load_runbooks().items():
        steps = [each.name for each in steps_of(name)]
        assert len({*steps}) == len(steps)
        assert {*CHECKS[name]} <= {"begin", *steps}
        for part in parts:
            assert f"<!-- {name}.{part}: written by" in guides
