"""The board for one look: does the limit hold, over all pods?"""

import limit_queries
import limiter_queries
import links
import variables
from cards import Card, Line, small
from frame import Board, Row
from meaning import (
    NONE_IS_GOOD,
    NOT_AUDITED,
    ONE_IS_GOOD,
    RED,
    SOME_IS_GOOD,
)
from panels import advice, figure, lines
from reloads import last_reload
from tables import Column, table_of


def board() -> Board:
    """Return the board."""
    return Board(
        links.HOLDS,
        "Does the limit hold?",
        "Admitted against permitted, over all pods, and whether they serve the same policies.",
        (*variables.release(), variables.policy(), variables.runbook()),
        (_glance(), _admitted(), _pods()),
    )


def _glance() -> Row:
    return Row(
        100,
        "At a glance",
        (
            figure(
                small(
                    101,
                    "Overshoot",
                    "Most units let in beyond a limit, for the audited keys of any policy, in the "
                    "time looked at. It has to be 0.",
                    width=6,
                ),
                limit_queries.worst_overshoot(),
                unit="short",
                steps=NONE_IS_GOOD,
                empty=NOT_AUDITED,
            ),
            figure(
                small(
                    102,
                    "Keys audited",
                    "Keys whose admitted units are compared with their limits now. With none, an "
                    "overshoot of 0 says nothing.",
                    width=3,
                ),
                limit_queries.audited_keys(),
                unit="short",
                steps=SOME_IS_GOOD,
                empty=NOT_AUDITED,
            ),
            figure(
                small(103, "Replicas serving", "Pods that answer the scrape.", width=3),
                limit_queries.serving_pods(),
                unit="short",
                steps=SOME_IS_GOOD,
            ),
            figure(
                small(
                    104,
                    "Not counted",
                    "Pods that some pod of their release does not count. They may not share a "
                    "limit, and then each overshoots unseen: the audit needs the store, too.",
                    width=3,
                ),
                limit_queries.replicas_not_counted(),
                unit="short",
                steps=NONE_IS_GOOD,
            ),
            figure(
                small(
                    105,
                    "Policy sets in force",
                    "Different sets of policies that the pods of a release serve: 1 when all "
                    "serve the same.",
                    width=3,
                ),
                limit_queries.policy_sets(),
                unit="short",
                steps=ONE_IS_GOOD,
            ),
            last_reload(106, width=3),
            figure(
                small(
                    107,
                    "Without the store",
                    "Pods whose breaker is open: they decide as their policies say for an outage.",
                    width=3,
                ),
                limiter_queries.pods_without_the_store(),
                unit="short",
                steps=NONE_IS_GOOD,
            ),
            advice(108, links.HOLDS, height=10),
        ),
    )


def _admitted() -> Row:
    return Row(
        200,
        "Admitted against permitted",
        (
            lines(
                Card(
                    201,
                    "Admitted against permitted, by policy",
                    "Units let in for audited keys each second, summed over pods, and dashed what "
                    "the limits permit to these keys: a burst when a key is first seen, then the "
                    "refill.",
                ),
                Line(limit_queries.admitted_units_by_policy(), "{{policy}}"),
                Line(limit_queries.permitted_units_by_policy(), "{{policy}} permitted"),
                unit="cps",
                dashed="permitted",
                empty=NOT_AUDITED,
            ),
            lines(
                Card(
                    202,
                    "Admitted by pod, against permitted",
                    "The same for the picked policies together, stacked by pod. However many pods "
                    "there are, the stack stays where one would.",
                ),
                Line(limit_queries.admitted_units_by_pod(), "{{pod}}"),
                Line(limit_queries.permitted_units(), "permitted"),
                unit="cps",
                stacked=True,
                dashed="permitted",
                colors={"permitted": RED},
                empty=NOT_AUDITED,
            ),
            lines(
                Card(
                    203,
                    "Overshoot by policy",
                    "Units let in beyond the limit, summed over pods, for the audited keys, in the "
                    "worst interval of the last few minutes.",
                ),
                Line(limit_queries.overshoot_by_policy(), "{{policy}}"),
                unit="short",
                empty=NOT_AUDITED,
            ),
            lines(
                Card(
                    204,
                    "Windows compared",
                    "Windows of audited keys that are compared with their limits each second: that "
                    "the audit runs.",
                ),
                Line(limit_queries.compared_windows_by_policy(), "{{policy}}"),
                unit="cps",
                empty=NOT_AUDITED,
            ),
        ),
    )


def _pods() -> Row:
    return Row(
        300,
        "Replicas and policies",
        (
            lines(
                Card(
                    301,
                    "Share of each pod",
                    "Part of the admitted requests that each pod let in. It follows the traffic, "
                    "and does not have to be even.",
                ),
                Line(limit_queries.admitted_share_by_pod(), "{{pod}}"),
                unit="percentunit",
                stacked=True,
            ),
            lines(
                Card(
                    302,
                    "Replicas",
                    "Pods that answer the scrape, and as many as they count themselves through the "
                    "store. A pod that has just started counts none.",
                ),
                Line(limit_queries.serving_pods(), "serving"),
                Line(limit_queries.most_replicas_counted(), "counted, at most"),
                Line(limit_queries.fewest_replicas_counted(), "counted, at least"),
                unit="short",
            ),
            lines(
                Card(
                    303,
                    "Pods by policy set",
                    "Pods that serve each set of policies, named by its digest: one colour, but "
                    "for the minute that a change takes.",
                ),
                Line(limit_queries.pods_by_policy_set(), "{{digest}}"),
                unit="short",
                stacked=True,
            ),
            table_of(
                Card(
                    304,
                    "Limits in force",
                    "What each policy allows a caller; a tier's limit is named `tier/limit`.",
                ),
                ("policy", "limit"),
                Column("Units", limit_queries.limits()),
                Column("Window", limit_queries.windows(), unit="s"),
            ),
        ),
    )
