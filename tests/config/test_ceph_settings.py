"""What a client is configured with."""

from __future__ import annotations

from rbdfs.config.ceph_settings import UNTHROTTLED, CephSettings


def test_settings_keep_their_order() -> None:
    pairs = (("rbd_cache", "false"), ("objecter_inflight_ops", "7"), ("rbd_cache", "true"))
    assert CephSettings(pairs=pairs).configuration == (*UNTHROTTLED, *pairs)


def test_what_ceph_has_renamed() -> None:
    settings = CephSettings(pairs=(("auth_supported", "cephx;none"),))
    assert settings.configuration[-1] == ("auth_client_required", "cephx;none")
