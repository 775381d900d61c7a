"""What py-spy recorded, by stage and as a graph."""

from collections import Counter
from xml.etree import ElementTree as ET

from bench.flame_stages import API, REST, WORKER, find_stage, read_samples
from bench.flame_svg import draw_flames


RAW = """\
main (api/cli/__main__.py:189);run (signer/worker.py:1);sign (cffi/lib.py:3) 30
main (api/cli/__main__.py:189);run (signer/worker.py:1);Tables.save_all (b.py:2) 10
Thread.run (threading.py:9);Condition.wait (threading.py:3) 1000
Thread.run (threading.py:9);<module> (x.py:1);a<b (x.py:2) 1
"""
SIGN = ("run (signer/worker.py)", "sign (cffi/lib.py)")
SAVE = ("run (signer/worker.py)", "Tables.save_all (b.py)")
OTHER = ("<module> (x.py)", "a<b (x.py)")


def test_samples_begin_with_our_code_and_leave_out_waits() -> None:
    assert read_samples(RAW) == Counter({SIGN: 30, SAVE: 10, OTHER: 1})


def test_the_samples_of_one_thread_have_its_waits() -> None:
    raw = f"{RAW}main (api/cli/__main__.py:1);run (signer/worker.py:1);wait (a.py:1) 5"

    assert read_samples(raw, thread="run (signer/") == Counter(
        {SIGN: 30, SAVE: 10, ("run (signer/worker.py)", "wait (a.py)"): 5}
    )


def test_a_sample_belongs_to_the_first_stage_that_it_names() -> None:
    nested = (*SAVE, "execute (backends/sql/sqlite_dbapi.py)")

    assert find_stage(WORKER, nested) == find_stage(WORKER, SAVE)
    assert find_stage(WORKER, nested) != find_stage(WORKER, nested[-1:]) != REST
    assert find_stage(API, OTHER) == REST


def test_the_graph_is_as_wide_as_the_samples() -> None:
    """A callee lies below its caller and within it; narrow frames are left out."""
    root = ET.fromstring(draw_flames(read_samples(RAW), "The worker"))
    boxes = {}
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        title, box, _ = group
        boxes[str(title.text).partition(":")[0]] = {
            name: float(box.attrib[name]) for name in ("x", "y", "width")
        }

    run, sign = boxes["run (signer/worker.py)"], boxes["sign (cffi/lib.py)"]
    assert sign["y"] > run["y"]
    assert run["x"] <= sign["x"]
    assert sign["x"] + sign["width"] <= run["x"] + run["width"] + 1
    assert round(1200 * 30 / 41) == round(sign["width"] + 0.5)
    assert "a<b (x.py)" in boxes
    few = draw_flames({SIGN: 10_000, OTHER: 1}, "The worker")
    assert "x.py" not in few


def test_the_graph_has_no_script_and_fetches_nothing() -> None:
    text = draw_flames(read_samples(RAW), "The worker")

    assert "<script" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
