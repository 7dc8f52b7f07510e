"""The board for those who run many: a row for each release."""

import denial_queries
import limit_queries
import limiter_queries
import links
import release_queries
import variables
from cards import Card, Line, Link, small
from frame import Board, Row
from meaning import (
    GREEN,
    NEUTRAL,
    NO_CHECKS,
    NONE_IS_BETTER,
    NONE_IS_GOOD,
    NOT_AUDITED,
    ONE_IS_GOOD,
    RED,
    SOME_IS_GOOD,
    STORE_TIME,
)
from panels import advice, figure, lines
from promql import RANGE, RELEASE
from reloads import last_reload
from tables import Column, table_of

_NAME = "/".join(f"{{{{{label}}}}}" for label in RELEASE)
_PICKED = {label: f"${{__data.fields.{label.capitalize()}}}" for label in RELEASE}
_STORE = {0: ("asked", GREEN), 1: ("not asked", RED)}


def board() -> Board:
    """Return the board."""
    return Board(
        links.FLEET,
        "Fleet",
        "All releases of Fleetlimit that this Prometheus scrapes, a row each.",
        (*variables.release(), variables.runbook()),
        (_glance(), _releases(), _compared()),
    )


def _glance() -> Row:
    return Row(
        100,
        "At a glance",
        (
            figure(
                small(101, "Over a limit", "Releases that let in more than a limit permits."),
                release_queries.overshooting(),
                unit="short",
                steps=NONE_IS_GOOD,
                empty=NOT_AUDITED,
            ),
            figure(
                small(102, "Without the store", "Releases with a pod that does not ask the store."),
                release_queries.without_the_store(),
                unit="short",
                steps=NONE_IS_GOOD,
            ),
            figure(
                small(
                    103,
                    "With different policies",
                    "Releases whose pods serve different sets of policies.",
                ),
                release_queries.with_different_policies(),
                unit="short",
                steps=NONE_IS_GOOD,
            ),
            last_reload(104),
            figure(
                small(105, "Number of releases", "Releases that have a pod: namespaces and jobs."),
                release_queries.releases(),
                unit="short",
                steps=NEUTRAL,
            ),
            figure(
                small(106, "Replicas serving", "Pods of all releases that answer the scrape."),
                limit_queries.serving_pods(),
                unit="short",
                steps=SOME_IS_GOOD,
            ),
            advice(107, links.FLEET, height=6),
        ),
    )


def _releases() -> Row:
    return Row(
        200,
        "Releases",
        (
            table_of(
                Card(
                    201,
                    "Releases",
                    "A row for each release. Its name leads to its other boards.",
                    24,
                    12,
                ),
                RELEASE,
                Column(
                    "Overshoot", release_queries.overshoot(RANGE), decimals=0, steps=NONE_IS_GOOD
                ),
                Column("Store", release_queries.store_away(), words=_STORE),
                Column(
                    "Without the store",
                    limiter_queries.share_without_the_store(*RELEASE),
                    unit="percentunit",
                    steps=NONE_IS_GOOD,
                ),
                Column(
                    "Store errors", release_queries.store_errors(), unit="ops", steps=NONE_IS_BETTER
                ),
                Column("Policy sets", limit_queries.policy_sets_by_release(), steps=ONE_IS_GOOD),
                Column(
                    "Rejected files",
                    limit_queries.pods_with_a_rejected_file(*RELEASE),
                    steps=NONE_IS_GOOD,
                ),
                Column("Pods", release_queries.pods()),
                Column(
                    "Not counted",
                    limit_queries.replicas_not_counted(*RELEASE),
                    steps=NONE_IS_GOOD,
                ),
                Column("Checks", denial_queries.checks(*RELEASE), unit="reqps"),
                Column("Denied", denial_queries.denied_share(*RELEASE), unit="percentunit"),
                Column(
                    "Latency, 99 of 100",
                    limiter_queries.check_duration(0.99, *RELEASE),
                    unit="s",
                    steps=STORE_TIME,
                ),
                links=(
                    Link("Does the limit hold?", links.board(links.HOLDS, **_PICKED)),
                    Link("Who is throttled?", links.board(links.THROTTLED, **_PICKED)),
                    Link("Is the limiter healthy?", links.board(links.HEALTHY, **_PICKED)),
                ),
            ),
        ),
    )


def _compared() -> Row:
    return Row(
        300,
        "Compared",
        (
            lines(
                Card(301, "Checks", "Requests that each release checks each second."),
                Line(denial_queries.checks(*RELEASE), _NAME),
                unit="reqps",
            ),
            lines(
                Card(302, "Denied share", "Part of the checked requests that each release denies."),
                Line(denial_queries.denied_share(*RELEASE), _NAME),
                unit="percentunit",
            ),
            lines(
                Card(
                    303,
                    "Check latency",
                    "99 of 100 checks of each release take at most so long.",
                ),
                Line(limiter_queries.check_duration(0.99, *RELEASE), _NAME, exemplars=True),
                unit="s",
                empty=NO_CHECKS,
            ),
            lines(
                Card(
                    304,
                    "Decided without the store",
                    "Part of each release's checks that was decided without the store.",
                ),
                Line(limiter_queries.share_without_the_store(*RELEASE), _NAME),
                unit="percentunit",
            ),
            lines(
                Card(305, "Overshoot", "Most units that each release let in beyond a limit."),
                Line(release_queries.overshoot(), _NAME),
                unit="short",
                empty=NOT_AUDITED,
            ),
            lines(
                Card(306, "Replicas", "Pods of each release that answer the scrape."),
                Line(release_queries.pods(), _NAME),
                unit="short",
            ),
        ),
    )
