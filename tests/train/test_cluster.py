from __future__ import annotations

import pytest

from train import cluster
from train.cluster import Cluster
from train.errors import UserError

TWO = {"current_host": "algo-2", "hosts": ["algo-2", "algo-1"], "network_interface_name": "lo"}


@pytest.mark.parametrize("resources", [{}, {"current_host": "algo-1"}, {"hosts": []}])
def test_without_resources_a_job_has_one_process(resources: dict[str, object]) -> None:
    alone = Cluster.of(resources, 1)
    assert alone.size == 1
    assert alone.environment(0) == {}


def test_hosts_have_their_ranks_in_the_order_of_their_names() -> None:
    assert Cluster.of(TWO, 1).hosts == ("algo-1", "algo-2")
    assert Cluster.of(TWO, 1).environment(0)["RANK"] == "1"
    assert Cluster.of(TWO, 1).environment(0)["MASTER_ADDR"] == "algo-1"


def test_every_process_of_every_host_has_a_rank_of_its_own() -> None:
    ranks = [
        (environment["RANK"], environment["LOCAL_RANK"], environment["WORLD_SIZE"])
        for host in TWO["hosts"]
        for local_rank in range(4)
        for environment in [Cluster.of(TWO | {"current_host": host}, 4).environment(local_rank)]
    ]
    assert sorted(ranks) == sorted((str(rank), str(rank % 4), "8") for rank in range(8))


def test_processes_of_one_host_meet_on_the_loopback() -> None:
    environment = Cluster.of({"hosts": ["algo-1"]}, 2).environment(1)
    assert environment["MASTER_ADDR"] == "127.0.0.1"
    assert "GLOO_SOCKET_IFNAME" not in environment


def test_network_interface_is_used_where_it_exists() -> None:
    assert Cluster.of(TWO, 1).environment(0)["GLOO_SOCKET_IFNAME"] == "lo"
    environment = Cluster.of(TWO | {"network_interface_name": "ethwe"}, 1).environment(0)
    assert "GLOO_SOCKET_IFNAME" not in environment


def test_host_that_is_none_of_the_hosts_is_named() -> None:
    with pytest.raises(UserError, match="'algo-3' is none of the hosts algo-1, algo-2"):
        Cluster.of(TWO | {"current_host": "algo-3"}, 1)


def test_name_that_resolves_late_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([True, False, False, True])
    monkeypatch.setattr(cluster, "_resolves", lambda host: next(answers))
    Cluster.of(TWO, 1).wait_for_peers()
    assert list(answers) == []


def test_name_that_never_resolves_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 0.2)
    resources = {"current_host": "localhost", "hosts": ["localhost", "no-such-host.invalid"]}
    with pytest.raises(UserError, match=r"host no-such-host\.invalid did not resolve"):
        Cluster.of(resources, 1).wait_for_peers()
