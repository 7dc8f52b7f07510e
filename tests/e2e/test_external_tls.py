"""Experiment 10: an external store over TLS, with a user of minimal permissions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleetlimit.telemetry import names
from support.acl import ACL_RULES, RULES_SINCE_7_2
from support.certificates import CertificateAuthority
from support.e2e_broken import WITH_STORE
from support.e2e_cluster import images
from support.e2e_external import PORT, External, values
from support.e2e_load import Load
from support.e2e_outage import ALLOW, DENY
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_setup import QUOTAS, streams
from support.e2e_tally import LEAST_OFFERED, offered
from support.e2e_watch import Watch

NAME = "external-tls"
HOST = "store"
URL = f"rediss://{HOST}:{PORT}/0"
LOGIN, ADMIN = "of-the-user", "of-the-operator"
GIVEN: dict[str, Any] = {
    "username": "fleetlimit",
    "passwordExistingSecret": {"name": "login"},
    "tls": {"existingSecret": {"name": "authority"}},
}
SERVER = (
    *("redis-server", "--port", "0", "--tls-port", str(PORT), "--tls-auth-clients", "no"),
    *("--tls-cert-file", "tls.crt", "--tls-key-file", "tls.key", "--tls-ca-cert-file", "ca.crt"),
    *("--aclfile", "users.acl", "--save", "", "--maxmemory-policy", "noeviction"),
)
CLI = (
    *("redis-cli", "--tls", "--cacert", "ca.crt"),
    *("--user", "admin", "--pass", ADMIN, "--no-auth-warning"),
)
UNAVAILABLE = 503


@pytest.mark.experiment(number=10)
@pytest.mark.measured(*WITH_STORE)
def test_external_store_over_tls_needs_only_the_documented_acl(
    another_release: Callable[[str], Release],
    installed: dict[str, object],
    image: str,
    folder: Path,
    report: Report,
) -> None:
    """The documented ACL suffices; a wrong password or CA is reported with its remedy."""
    release = another_release(NAME)
    store = External(release, images()["REDIS_IMAGE"], image)
    _start(store)
    release.install(installed, values(URL, **GIVEN))
    with Watch(release, folder) as watch:
        with Load(release, image, NAME, streams(NAME, per_second=4), 18) as load:
            answers = load.answers()
        row = report.record("external store over TLS", answers, watch)
        row.expect_lossless()
        row.expect_pods(2)
        watch.expect_no_store_errors()
    assert not store.run("store-0", *CLI, "acl", "log"), "the server denied a command of the user"
    for kind, wrong, remedy in (
        ("authentication", {"passwordExistingSecret": {"name": "wrong-login"}}, "STORE_PASSWORD"),
        ("certificate", {"tls": {"existingSecret": {"name": "wrong-authority"}}}, "ssl_ca_certs"),
    ):
        # The readiness of the pods does not depend on the store.
        release.install(installed, values(URL, **GIVEN | wrong), {"preStopSleepSeconds": 0})
        _expect_reported(release, image, folder / kind, kind, remedy)


def _start(store: External) -> None:
    authority = CertificateAuthority("store's")
    certificate, key = authority.issue(HOST)
    store.secret("authority", {"ca.crt": authority.certificate})
    store.secret("wrong-authority", {"ca.crt": CertificateAuthority("another's").certificate})
    store.secret("login", {"password": LOGIN})
    store.secret("wrong-login", {"password": f"not-{LOGIN}"})
    files = {"ca.crt": authority.certificate, "tls.crt": certificate, "tls.key": key}
    users = f"user default off\nuser admin on >{ADMIN} ~* &* +@all\n"
    store.secret("files", files | {"users.acl": users})
    store.start(HOST, 1, *SERVER, files="files")

    def allow(*rule: str) -> str:
        return store.run("store-0", *CLI, "acl", "setuser", "fleetlimit", "on", f">{LOGIN}", *rule)

    reply = allow(*ACL_RULES)
    if "Unknown command" in reply:
        reply = allow(*(each for each in ACL_RULES if each.lstrip("+") not in RULES_SINCE_7_2))
    assert reply == "OK"


def _expect_reported(release: Release, image: str, folder: Path, kind: str, remedy: str) -> None:
    """Check the decisions and the log lines of pods without a store."""
    with Watch(release, folder, without_store=True) as watch:
        with Load(release, image, kind, streams(NAME, per_second=8), 4) as load:
            answers = load.answers()
        sent = tuple(offered(answers, watch.marks, QUOTAS))
        assert sent
        assert all(each.share >= LEAST_OFFERED for each in sent), sent
        assert set(answers.of(policy=DENY).statuses) == {UNAVAILABLE}
        assert set(answers.of(policy=ALLOW).statuses) == {200}
        for pod in watch.ready():
            assert watch.scrape(pod)[names.STORE_ERRORS.name, kind] > 0
            lines = release.cluster.get(f"{release.pods}/{pod}/log").splitlines()
            events = [json.loads(line) for line in lines]
            errors = [each for each in events if each["event"] == names.LOG_STORE_REJECTED]
            assert errors, f"{pod} did not log {kind}"
            assert all(each["kind"] == kind and remedy in each["error"] for each in errors)
