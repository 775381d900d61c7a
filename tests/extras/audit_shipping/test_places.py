"""The contract of places: a bucket (moto's server over HTTP) and a folder."""

from collections.abc import Callable
from pathlib import Path

import boto3  # type: ignore[import-untyped]
import pytest

from api.extras.audit_shipping.places import Place, PlaceError, Stored, open_place
from signer.errors import InvalidInputError


def _names(place: Place, folder: str = "records/") -> list[str]:
    return [each.name for each in place.list(folder)]


def test_a_name_is_written_once(place: Place) -> None:
    first, second = place.put("records/1", b"one"), place.put("records/1", b"two")

    assert (first, second) == (True, False)
    assert place.get(Stored("records/1")) == b"one"
    assert place.get(Stored("records/1"), 2) == b"on"


def test_names_are_listed_by_folder_and_in_order(place: Place) -> None:
    assert _names(place) == []
    for name in ("records/2", "checkpoints/1", "records/1"):
        place.put(name, b"")

    assert _names(place) == ["records/1", "records/2"]
    assert _names(place, "checkpoints/") == ["checkpoints/1"]


def test_what_is_missing_cannot_be_read(place: Place) -> None:
    with pytest.raises(PlaceError, match=r"NoSuchKey|FileNotFound"):
        place.get(Stored("records/1"))


def test_two_writers_of_one_name_cannot_both_succeed(
    url: str, opened_place: Callable[[str], Place]
) -> None:
    places = [opened_place(url), opened_place(url)]
    written = [place.put("records/1", bytes([n])) for n, place in enumerate(places)]

    assert sorted(written) == [False, True]


def test_a_reader_gets_the_oldest_version(
    s3: str, bucket: str, opened_place: Callable[[str], Place]
) -> None:
    """A thief can put another version above ours, and a delete marker above that."""
    place = opened_place(f"s3://{bucket}/log")
    place.put("records/1", b"ours")
    place.put("records/2", b"ours")
    client = boto3.client("s3", endpoint_url=s3, region_name="us-east-1")
    client.put_object(Bucket=bucket, Key="log/records/1", Body=b"forged")
    client.delete_object(Bucket=bucket, Key="log/records/1")
    found = list(place.list("records/"))

    assert [each.was_replaced for each in found] == [True, False]
    assert [place.get(each) for each in found] == [b"ours", b"ours"]


def test_a_lock_is_found_to_be_missing(
    s3: str, bucket: str, opened_place: Callable[[str], Place]
) -> None:
    client = boto3.client("s3", endpoint_url=s3, region_name="us-east-1")
    client.create_bucket(Bucket=f"{bucket}-open")

    assert opened_place(f"s3://{bucket}").find_weakness() is None
    weakness = opened_place(f"s3://{bucket}-open").find_weakness()
    assert weakness == "the default retention of the bucket is missing"


def test_a_place_that_does_not_answer_fails(tmp_path: Path, bucket: str) -> None:
    closed = open_place(f"s3://{bucket}", "http://127.0.0.1:1", "us-east-1")
    for place in (closed, open_place((tmp_path / "gone").as_uri(), None, None)):
        with pytest.raises(PlaceError, match=r"\(\w+Error\)|\(FileNotFoundError\)"):
            place.put("records/1", b"")


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3://a@b/c", "s3://b/c?x=1", "file://host/path", "https://x/y", "/x"],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="must be s3://BUCKET/PREFIX"):
        open_place(url, None, None)
