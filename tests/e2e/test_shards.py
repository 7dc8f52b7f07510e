"""Experiment 10: a Cluster of three shards: alive, with a lost shard, or with new addresses."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from itertools import chain
from pathlib import Path

import pytest

from fleetlimit.core.decision import Outcome
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.quota import SECOND_US
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.stores.redis.cluster import slot_of
from support import e2e_timeouts as timeouts
from support.acl import ACL_RULES, CLUSTER_RULES
from support.e2e_broken import WITH_STORE
from support.e2e_cluster import images
from support.e2e_external import PORT, External, values
from support.e2e_load import Answers, Load, Stream
from support.e2e_outage import (
    DENY,
    LOCAL,
    SPENT,
    Outage,
    check_counters_in_outages,
    check_results_in_outages,
    promised,
    record_outages,
    run_with_fault,
    until_over,
    until_seen,
    until_used,
)
from support.e2e_process import Process
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_series import overshoot_of_all
from support.e2e_setup import ALGORITHMS, EXPERIMENTS, QUOTAS, callers, streams
from support.e2e_tally import by_caller, until_offered
from support.e2e_watch import Watch
from support.eventually import eventually

NAME = "shards"
SHARDS = 3
LOST = "lost-shard"
"""Name of the experiment with a lost shard."""
MOVED = "moved"
"""Name of the experiment with new addresses."""
CALLERS_OF_A_SHARD = 2
LOGIN, ADMIN = "of-the-user", "of-the-operator"
KEYS = KeyScheme(b"of all experiments")
OF_THE_FLEET = {
    *(KEYS.replicas_key, KEYS.epoch_key, KEYS.secrets_key),
    *(KEYS.reports_key, KEYS.auditors_key),
}
SERVER = (
    *("valkey-server", "--save", "", "--maxmemory-policy", "noeviction"),
    *("--cluster-enabled", "yes", "--cluster-announce-ip", "$(POD_IP)"),
    # The living shards serve their slots while one is lost.
    *("--cluster-require-full-coverage", "no"),
    *("--requirepass", ADMIN, "--user", "fleetlimit", "on", f">{LOGIN}"),
    *ACL_RULES,
    *CLUSTER_RULES,
)
USER = {"username": "fleetlimit", "password": LOGIN}
CLI = ("valkey-cli", "--pass", ADMIN, "--no-auth-warning")


@pytest.mark.experiment(number=10)
@pytest.mark.measured(*WITH_STORE)
def test_cluster_of_three_shards_admits_as_much_as_one_server(
    another_release: Callable[[str], Release],
    installed: dict[str, object],
    image: str,
    folder: Path,
    report: Report,
) -> None:
    """Buckets are spread over all shards, and each caller gets the limit of a single server."""
    release = another_release(NAME)
    store, shards = _start(release, NAME, image)
    release.install(installed, values(f"redis+cluster://{NAME}:{PORT}", **USER))
    load = _load_of_shards(_callers_of_shards(store, shards), (*ALGORITHMS, SPENT))
    with Watch(release, folder) as watch:
        with Load(release, image, NAME, load, 20) as loading:
            eventually(
                lambda: all(_buckets(store, shard) for shard in shards),
                within=timeouts.POD,
                what="every shard has buckets",
            )
            answers = loading.answers()
        more = {"calls": [_calls(store, shard) for shard in shards]}
        row = report.record("a Cluster of three shards", answers, watch, more)
        row.expect_lossless()
        # To the unit: what no shard refills within the experiment.
        for mine in by_caller(answers.of(policy=SPENT)):
            assert mine.admitted == QUOTAS[SPENT].burst, mine.requests[0].stream.caller
        row.expect_pods(2)
        watch.expect_no_store_errors()
    assert not any(store.run(shard, *CLI, "acl", "log") for shard in shards)


@pytest.mark.experiment(number=10)
@pytest.mark.measured(*WITH_STORE)
def test_lost_shard_is_noticed_by_its_callers_only(
    another_release: Callable[[str], Release],
    installed: dict[str, object],
    image: str,
    folder: Path,
    report: Report,
) -> None:
    """The store decides the callers of the living shards, without a 5xx and within the limit.

    The lost shard also has the keys of membership and audit.
    """
    release = another_release(LOST)
    store, shards = _start(release, LOST, image)
    release.install(installed, values(f"redis+cluster://{LOST}:{PORT}", **USER))
    (lost,) = (shard for shard in shards if slot_of(KEYS.replicas_key) in _slots(store, shard))
    chosen = _callers_of_shards(store, shards)
    load = _load_of_shards(chosen, ALGORITHMS)
    process = Process(release.cluster, f"{release.pods}/{lost}", "server")
    with Watch(release, folder) as watch:
        with Load(release, image, LOST, load, 240) as loading:
            until_used(watch)
            until_offered(watch, loading)
            start_us = watch.begin("shard frozen")
            with process.frozen():
                seen_us = until_seen(watch)
                closed = watch.decided(DENY, Outcome.FAIL_CLOSED)
                eventually(
                    lambda: watch.decided(DENY, Outcome.FAIL_CLOSED) >= closed + 40,
                    within=timeouts.POD,
                    what="the callers of the lost shard are decided without the store",
                )
                until_offered(watch, loading)
                end_us = watch.mark("shard returns")
            # A primary that returns serves after seconds.
            eventually(lambda: _is_up(store, lost), within=timeouts.POD, what="the shard serves")
            back_us = watch.mark("shard is back")
            outage = Outage(start_us, seen_us, end_us, back_us, until_over(watch))
            until_used(watch)
            until_offered(watch, loading)
            loading.stop()
            answers = loading.answers()
        theirs = _of(answers, chosen[lost])
        living = _of(answers, {caller for shard in {*shards} - {lost} for caller in chosen[shard]})
        figures = {
            "fail_closed": len(theirs.server_errors),
            "slowest_of_living_shards_ms": living.slowest_ms(),
        }
        what = "one of three shards frozen"
        row = report.record(what, answers, watch, figures, promise=promised([outage]))
        row.expect(refused=0, broken=0)
        check_results_in_outages(theirs, [outage])
        # Equal to the rejections of the lost shard's callers, so no other caller was degraded.
        check_counters_in_outages(watch, theirs, [outage])
        assert {*living.statuses} == {HTTPStatus.OK, HTTPStatus.TOO_MANY_REQUESTS}
        for policy, quota in QUOTAS.items():
            mine = living.of(policy=policy)
            assert not mine.requests or not overshoot_of_all(quota, mine), policy
        watch.read_counters()
        during = theirs.of(policy=LOCAL).between(outage.start_us - SECOND_US, outage.over_us)
        assert 0 < watch.decided_locally() <= len(during.requests)


@pytest.mark.experiment(number=10)
@pytest.mark.measured(*WITH_STORE)
def test_cluster_whose_nodes_all_have_new_addresses_is_found_again(
    another_release: Callable[[str], Release],
    installed: dict[str, object],
    image: str,
    folder: Path,
    report: Report,
) -> None:
    """The pods ask the name in the URL again, and use the new Cluster without a restart."""
    release = another_release(MOVED)
    store, _ = _start(release, MOVED, image)
    release.install(installed, values(f"redis+cluster://{MOVED}:{PORT}", **USER))
    with Watch(release, folder) as watch:
        pods = watch.ready()
        answers, outage = run_with_fault(
            MOVED, _replaced(store), release, image, watch, what="all servers lost"
        )
        what = "a Cluster at new addresses, without its state"
        record_outages(what, answers, [outage], watch, report, forgotten=True)
        assert watch.ready() == pods


@contextmanager
def _replaced(store: External) -> Iterator[None]:
    """Lose all servers of a Cluster, and at the end form an empty one at other addresses."""
    lost = {store.address(shard) for shard in _names(MOVED)}
    for shard in _names(MOVED):
        store.kill(shard)
    yield
    _form(store, MOVED)
    assert not lost & {store.address(shard) for shard in _names(MOVED)}


def _start(release: Release, name: str, image: str) -> tuple[External, list[str]]:
    """Form a Cluster, and return its servers and the names of their pods."""
    store = External(release, images()["VALKEY_IMAGE"], image)
    _form(store, name)
    return store, _names(name)


def _names(name: str) -> list[str]:
    """Return the names of a Cluster's pods."""
    return [f"{name}-{number}" for number in range(SHARDS)]


def _form(store: External, name: str) -> None:
    """Start the servers of a Cluster, and wait until they serve."""
    nodes = [f"{address}:{PORT}" for address in store.start(name, SHARDS, *SERVER)]
    shards = _names(name)
    store.run(shards[0], *CLI, "--cluster", "create", *nodes, "--cluster-yes")
    eventually(
        lambda: all(_is_up(store, shard) for shard in shards),
        within=timeouts.POD,
        what="every shard serves",
    )


def _callers_of_shards(store: External, shards: Collection[str]) -> dict[str, list[str]]:
    """Return a few callers whose buckets are on each shard."""
    everyone = [caller for each in EXPERIMENTS for caller in callers(each)]
    slots = {shard: _slots(store, shard) for shard in shards}
    return {
        shard: [each for each in everyone if _slot(each) in slots[shard]][:CALLERS_OF_A_SHARD]
        for shard in shards
    }


def _load_of_shards(
    chosen: Mapping[str, Collection[str]], policies: Sequence[str]
) -> tuple[Stream, ...]:
    """Return streams of the chosen callers."""
    some = set(chain.from_iterable(chosen.values()))
    everything = (streams(each, per_second=4, policies=policies) for each in EXPERIMENTS)
    return tuple(each for each in chain.from_iterable(everything) if each.caller in some)


def _slots(store: External, shard: str) -> range:
    """Return the slots of a shard."""
    nodes = store.run(shard, *CLI, "cluster", "nodes").splitlines()
    (own,) = (line.split()[8] for line in nodes if "myself" in line)
    first, _, last = own.partition("-")
    return range(int(first), int(last) + 1)


def _slot(caller: str) -> int:
    """Return the slot of a caller's buckets."""
    return slot_of(f"{{{KEYS.subject_hash(Subject(principal=Principal(caller)))}}}")


def _of(answers: Answers, some: Collection[str]) -> Answers:
    """Return the requests of some callers."""
    return Answers(tuple(each for each in answers.requests if each.stream.caller in some))


def _is_up(store: External, shard: str) -> bool:
    """Return whether a shard serves: a new Cluster is down for seconds after its creation."""
    return "cluster_state:ok" in store.run(shard, *CLI, "cluster", "info").splitlines()


def _buckets(store: External, shard: str) -> set[str]:
    """Return the bucket keys of a shard, without those of membership and audit."""
    return set(store.run(shard, *CLI, "--scan").splitlines()) - OF_THE_FLEET


def _calls(store: External, shard: str) -> int:
    """Return the number of scripts that a shard has run."""
    (line,) = (
        line
        for line in store.run(shard, *CLI, "info", "commandstats").splitlines()
        if line.startswith("cmdstat_evalsha:")
    )
    return int(line.split("calls=")[1].split(",")[0])
