"""The board about callers: who is throttled, by which policy, on which route?"""

import callers_row
import denial_queries
import links
import log_queries
import variables
from cards import Card, Line, Link, small
from fleetlimit.core.decision import Outcome
from fleetlimit.telemetry import names
from frame import Board, Row
from meaning import BLUE, GREEN, GREY, NEUTRAL, NO_DENIALS, NO_SHADOW, ORANGE, PURPLE, RED
from panels import advice, figure, lines
from tables import Column, table_of

_OUTCOMES = {
    Outcome.ALLOWED.value: GREEN,
    Outcome.DENIED.value: BLUE,
    Outcome.SHADOW_DENIED.value: PURPLE,
    Outcome.FAIL_OPEN.value: ORANGE,
    Outcome.FAIL_CLOSED.value: RED,
    Outcome.EXEMPT.value: GREY,
}
_OF_SERIES = Link(
    "Log lines of this policy",
    links.logs(log_queries.lines_of_policy("${__field.labels.policy}")),
)
_OF_ROW = Link(
    "Log lines of this policy",
    links.logs(log_queries.lines_of_policy("${__data.fields.Policy}")),
)
_KEYS = (names.POLICY, names.ROUTE, names.TIER)


def board() -> Board:
    """Return the board."""
    return Board(
        links.THROTTLED,
        "Who is throttled?",
        "Denials by policy, route, tier and caller, and what would be denied.",
        (*variables.release(), variables.policy(), variables.logs(), variables.runbook()),
        (_glance(), _policies(), _routes(), _soon(), callers_row.row()),
    )


def _glance() -> Row:
    return Row(
        100,
        "At a glance",
        (
            figure(
                small(101, "Denied share", "Part of all checked requests that is denied."),
                denial_queries.denied_share(),
                unit="percentunit",
                steps=NEUTRAL,
            ),
            figure(
                small(102, "Denials", "Requests denied each second."),
                denial_queries.denials(),
                unit="reqps",
                steps=NEUTRAL,
            ),
            figure(
                small(103, "Policies that deny", "Policies that deny something now."),
                denial_queries.denying_policies(),
                unit="short",
                steps=NEUTRAL,
            ),
            figure(
                small(
                    104,
                    "Near the limit",
                    "Part of what policies let in that left at most a fifth of a limit.",
                ),
                denial_queries.near_limit_share(),
                unit="percentunit",
                steps=NEUTRAL,
            ),
            figure(
                small(
                    105,
                    "Would be denied",
                    "Requests each second that policies in shadow let in and would deny.",
                ),
                denial_queries.shadow_denials(),
                unit="reqps",
                steps=NEUTRAL,
            ),
            figure(
                small(
                    106,
                    "Denials without a line",
                    "Denials in the time looked at that the log only counts, because a flood is "
                    "sampled.",
                ),
                denial_queries.denials_without_a_line(),
                unit="short",
                steps=NEUTRAL,
                decimals=0,
            ),
            advice(107, links.THROTTLED, height=9),
        ),
    )


def _policies() -> Row:
    return Row(
        200,
        "By policy",
        (
            lines(
                Card(
                    201,
                    "Denials by policy",
                    "Denials each second. The dots are traces; a series leads to its log lines.",
                ),
                Line(denial_queries.denials_by_policy(), "{{policy}}", exemplars=True),
                unit="reqps",
                links=(_OF_SERIES,),
            ),
            lines(
                Card(
                    202,
                    "Denied share by policy",
                    "Part of its decisions that each policy denied. Of a denied request only the "
                    "policies that denied it have a decision.",
                ),
                Line(denial_queries.denied_share_by_policy(), "{{policy}}"),
                unit="percentunit",
                links=(_OF_SERIES,),
            ),
            lines(
                Card(
                    203,
                    "Checks by outcome",
                    "Requests checked each second, by what became of them. `exempt`: no policy "
                    "holds the request.",
                    24,
                ),
                Line(denial_queries.checks(names.OUTCOME), "{{outcome}}"),
                unit="reqps",
                stacked=True,
                colors=_OUTCOMES,
            ),
        ),
    )


def _routes() -> Row:
    return Row(
        300,
        "By route and tier",
        (
            lines(
                Card(301, "Denials by route", "Denials each second, by the route's template."),
                Line(denial_queries.denials_by_route(), "{{route}}", exemplars=True),
                unit="reqps",
            ),
            lines(
                Card(
                    302,
                    "Denials by tier",
                    "Denials each second, by the caller's tier: `none` has none, `other` is one "
                    "that no policy names.",
                ),
                Line(denial_queries.denials_by_tier(), "{{tier}}", exemplars=True),
                unit="reqps",
            ),
            table_of(
                Card(
                    303,
                    "Denials by policy, route and tier",
                    "Denials in the time looked at, without the first of each row on each pod. A "
                    "row leads to its policy's log lines.",
                    24,
                ),
                _KEYS,
                Column("Denials", denial_queries.denials_by_policy_route_tier(), decimals=0),
                sort_by="Denials",
                links=(_OF_ROW,),
                empty=NO_DENIALS,
            ),
        ),
    )


def _soon() -> Row:
    return Row(
        400,
        "Near the limit, and in shadow",
        (
            lines(
                Card(
                    401,
                    "Near the limit by policy and tier",
                    "Requests each second that were let in and left at most a fifth of a limit.",
                ),
                Line(denial_queries.near_limit_by_policy_and_tier(), "{{policy}} {{tier}}"),
                unit="reqps",
            ),
            lines(
                Card(
                    402,
                    "Would be denied by policy",
                    "Requests each second that a policy in shadow let in and would deny.",
                ),
                Line(denial_queries.shadow_denials_by_policy(), "{{policy}}"),
                unit="reqps",
                links=(_OF_SERIES,),
            ),
            table_of(
                Card(
                    403,
                    "Would be denied by policy, route and tier",
                    "What policies in shadow would deny, in the time looked at, without the first "
                    "of each row on each pod.",
                    24,
                ),
                _KEYS,
                Column("Denials", denial_queries.shadow_denials_by_policy_route_tier(), decimals=0),
                sort_by="Denials",
                links=(_OF_ROW,),
                empty=NO_SHADOW,
            ),
        ),
    )
