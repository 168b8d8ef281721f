"""A report of a file fits into an extended attribute, whatever it is about."""

from __future__ import annotations

import json

from rbdfs.model.file_report import REPORT_BYTES, encoded_report


def test_what_fits_is_as_it_was() -> None:
    report = {"spec": "a/b", "children": [1, 2], "left_out": {"children": 3}}
    assert json.loads(encoded_report(report)) == report


def test_the_longest_lists_are_cut_and_what_is_lost_is_counted() -> None:
    report = {
        "children": [{"spec": "ü\udcff" * 2000}] * 100,
        "snapshots": [{"name": f"s{number}"} for number in range(10000)],
        "parents": [1, 2, 3],
        "left_out": {"children": 7},
    }
    data = encoded_report(report)
    assert len(data) <= REPORT_BYTES
    told = json.loads(data)
    assert told["parents"] == [1, 2, 3]
    assert len(told["children"]) + told["left_out"]["children"] == 107
    assert len(told["snapshots"]) + told["left_out"]["snapshots"] == 10000
    assert told["snapshots"][:2] == [{"name": "s0"}, {"name": "s1"}]
    assert report["left_out"] == {"children": 7}, "what was given is as it was"


def test_one_thing_that_is_too_long() -> None:
    data = encoded_report({"children": ["x" * REPORT_BYTES], "left_out": {}})
    assert json.loads(data) == {"children": [], "left_out": {"children": 1}}
