"""The dashboard and the alerts: they ask for what a live mount tells, and are well-formed."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.images import MIB, import_image, random_bytes
from tests.support.scraping import ANY_PORT, Scrape, scraped_text, work

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.mounts import Mounting

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "contrib" / "grafana"
# Where contrib/setup unpacks it.
PROMTOOL = ROOT / ".cache" / "prometheus" / "usr" / "bin" / "promtool"
DASHBOARD = GRAFANA / "rbdfs.json"
RULES = GRAFANA / "rbdfs.rules.yml"


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    targets = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    return targets + [each["expr"] for each in dashboard["annotations"]["list"]]


def promtool(*arguments: str, text: str = "") -> str:
    if not PROMTOOL.exists():
        pytest.skip(f"there is no {PROMTOOL} (contrib/setup)")
    done = subprocess.run(
        [PROMTOOL, *arguments], input=text, capture_output=True, text=True, cwd=GRAFANA
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_each_metric_is_told_by_a_mount(
    ceph: Ceph, pool: str, image_name: str, mounting: Mounting, native: None
) -> None:
    import_image(ceph, f"{pool}/{image_name}", random_bytes(MIB))
    with mounting(pool, f"--metrics={ANY_PORT}") as mount:
        # What has not been asked for, and the errors of that, have no series.
        work(mount, image_name)
        text = scraped_text(mount)
    told = {name for name, _ in Scrape.of(text)}
    asked = {
        name
        for source in (*expressions(), DASHBOARD.read_text(), RULES.read_text())
        for name in re.findall(r"\brbdfs_\w+", source)
    }
    assert len(asked) > 20
    assert asked - told == set()
    if PROMTOOL.exists():
        # Names and units as everybody's.
        assert promtool("check", "metrics", text=text) == ""


def test_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", RULES.name)
    assert "SUCCESS" in promtool("test", "rules", "rbdfs.rules.test.yml")


def test_expressions_of_the_dashboard(tmp_path: Path) -> None:
    """As rules, for promtool knows those."""
    rules = [
        {"record": f"panel:{i}", "expr": re.sub(r"\$__rate_interval", "5m", expression)}
        for i, expression in enumerate(expressions())
    ]
    path = tmp_path / "rules.yml"
    # JSON is YAML.
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(path))


def test_panels_stand_beside_each_other() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels())
    for one, other in combinations([panel["gridPos"] for panel in panels()], 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
