"""Metrics of a mount, as Prometheus and its node exporter get them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually
from tests.support.images import MIB, import_image, random_bytes
from tests.support.recipes import POOL, RecipeError, need

if TYPE_CHECKING:
    from tests.support.ceph import Ceph
    from tests.support.recipes import Machine

RECIPE = "metrics"
TEXT_FILE = "/var/lib/prometheus/node-exporter/rbdfs.prom"
PROMETHEUS = "127.0.0.1:9121"
READ = 'sum(rbdfs_request_bytes_total{operation="read"})'


@pytest.fixture
def image(ceph: Ceph, pool: str) -> None:
    pytest.importorskip("prometheus_client")
    import_image(ceph, f"{POOL}/vm1", random_bytes(MIB))


@pytest.mark.usefixtures("image")
def test_a_text_file(here: Machine) -> None:
    here.follow(RECIPE, "Without a port")
    here.shell("rbdfs -o ro vms /srv/rbd; dd if=/srv/rbd/vm1 iflag=direct of=/dev/null")
    # As cron runs it.
    (line,) = here.shell("grep -o 'root .*' /etc/cron.d/rbdfs-metrics").splitlines()
    command = line.removeprefix("root ")
    here.shell(f"env -i $(grep ^PATH /etc/cron.d/rbdfs-metrics) sh -c {command}")
    found = here.shell(f"grep '^rbdfs_request_bytes_total.*operation=\"read\"' {TEXT_FILE}")
    assert float(found.split()[-1]) == MIB
    here.shell("rbdfs umount /srv/rbd")
    with pytest.raises(RecipeError, match="exit code 1"):
        here.shell(command)
    here.shell(f"test ! -e {TEXT_FILE}")


@pytest.mark.slow
@pytest.mark.usefixtures("image")
def test_a_prometheus(here: Machine) -> None:
    need("prometheus", "promtool", "curl")
    assert "rbdfs_serving" in here.follow(RECIPE, "With a port")
    here.follow(RECIPE, "Prometheus")
    here.shell("curl -fsS http://127.0.0.1:9120/metrics | promtool check metrics")
    here.shell("dd if=/srv/rbd/vm1 iflag=direct of=/dev/null")
    here.shell(
        "prometheus --config.file=/etc/prometheus/prometheus.yml --storage.tsdb.path=/srv/tsdb "
        f"--web.listen-address={PROMETHEUS} &>/srv/prometheus.log &"
    )

    def answer() -> float:
        said = here.shell(
            f"curl -fsS --get http://{PROMETHEUS}/api/v1/query --data-urlencode 'query={READ}' ||:"
        )
        found = json.loads(said or '{"data": {"result": []}}')["data"]["result"]
        return float(found[0]["value"][1]) if found else 0.0

    assert eventually(answer) == MIB
    here.follow(RECIPE, "The end")


@pytest.mark.slow
@pytest.mark.usefixtures("image")
def test_a_node_exporter(here: Machine) -> None:
    need("prometheus-node-exporter", "curl")
    here.follow(RECIPE, "Without a port")
    here.shell("rbdfs -o ro vms /srv/rbd; rbdfs-metrics")
    here.shell(
        "prometheus-node-exporter --collector.disable-defaults --collector.textfile "
        "--collector.textfile.directory=/var/lib/prometheus/node-exporter "
        f"--web.listen-address={PROMETHEUS} &>/srv/exporter.log &"
    )
    scrape = f"curl -fsS http://{PROMETHEUS}/metrics ||:"
    assert 'rbdfs_serving{mountpoint="/srv/rbd"} 1' in eventually(lambda: here.shell(scrape))
