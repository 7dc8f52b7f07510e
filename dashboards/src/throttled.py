"""Dashboard *Who is throttled?*: denials by policy, route, tier and caller."""

from collections.abc import Iterator
from typing import Final

from grafana_foundation_sdk.models.dashboard import Panel

import queries
from dashboard import THROTTLED, Board, Row, logs_url, logs_variable, policy_variable
from fleetlimit.core.decision import Outcome
from fleetlimit.telemetry import names
from panels import (
    Card,
    Column,
    Link,
    Query,
    graph_panel,
    log_bar_panel,
    small,
    stat_panel,
    table_panel,
)
from promql import SELECTED_POLICY, increase, one_of, rate, ratio, total
from style import BLUE, GREEN, GREY, NO_DENIALS, NO_LOGS, NO_SHADOW_DENIALS, ORANGE, PURPLE, RED

EVENT: Final = "event"
CALLER: Final = "subject"
"""Log field with the caller's hash."""
SUPPRESSED: Final = "suppressed"
"""Log field with the number of denials that have no log line of their own."""

_KEYS: Final = (names.POLICY, names.ROUTE, names.TIER)
_OUTCOME_COLORS: Final = {
    Outcome.ALLOWED.value: GREEN,
    Outcome.DENIED.value: BLUE,
    Outcome.SHADOW_DENIED.value: PURPLE,
    Outcome.FAIL_OPEN.value: ORANGE,
    Outcome.FAIL_CLOSED.value: RED,
    Outcome.EXEMPT.value: GREY,
}
# `:regex` escapes the names of the namespaces, because the links are URLs and not panel queries.
_LINKED_LINES: Final = '{namespace=~"${namespace:regex}", pod=~".+"}'


def board() -> Board:
    """Return the dashboard."""
    return Board(
        THROTTLED,
        "Who is throttled?",
        "Denials by policy, route, tier and caller, and denials of shadow policies.",
        (policy_variable(), logs_variable()),
        tuple(_overview()),
        (
            Row(200, "By policy", tuple(_policies())),
            Row(300, "By route and tier", tuple(_routes())),
            Row(400, "Near the limit, and shadow policies", tuple(_near_and_shadow())),
            Row(500, "Callers, from the logs", tuple(_callers())),
        ),
        advice_height=9,
    )


def most_denied(event: str) -> str:
    """Return the LogQL query of the ten callers with the most denials in the time range.

    Args:
        event: `request.denied` or `request.shadow_denied`.
    """
    events = "|".join(each.replace(".", "[.]") for each in (event, event + names.SUPPRESSED))
    denials = (
        f'{{namespace=~"$namespace", pod=~".+"}} |= `{event}` | json | {EVENT}=~`{events}`'
        f" | {names.POLICY}=~`$policy`"
        f' | label_format denials=`{{{{ or .{SUPPRESSED} "1" }}}}` | unwrap denials | __error__=``'
    )
    summed = f"sum by ({names.POLICY}, {CALLER}) (sum_over_time({denials} [$__range]))"
    return f"topk(10, {summed})"


def _policy_logs(policy: str) -> Link:
    # Policy names contain no characters that LogQL would require to be escaped.
    query = f"{_LINKED_LINES} |= `request.` | json | {names.POLICY}=`{policy}`"
    return Link("Log lines of this policy", logs_url(query))


def _overview() -> Iterator[Panel]:
    yield stat_panel(
        small(101, "Denied share", "Fraction of all checked requests that is denied."),
        queries.denied_share(),
        unit="percentunit",
    )
    yield stat_panel(
        small(102, "Denials", "Denied requests per second."), queries.denials(), unit="reqps"
    )
    yield stat_panel(
        small(103, "Policies that deny", "Policies with denials."), queries.denying_policies()
    )
    allowed = rate(names.DECISIONS.name, SELECTED_POLICY, one_of(names.OUTCOME, Outcome.ALLOWED))
    yield stat_panel(
        small(
            104,
            "Near the limit",
            "Fraction of the admitted requests that left 20 % or less of a limit.",
        ),
        ratio(total(rate(names.NEAR_LIMIT.name, SELECTED_POLICY)), total(allowed)),
        unit="percentunit",
    )
    yield stat_panel(
        small(105, "Shadow denials", "Requests per second that shadow policies would deny."),
        queries.shadow_denials(),
        unit="reqps",
    )
    yield stat_panel(
        small(
            106,
            "Denials not logged",
            "Denials in the time range without a log line, because the log samples floods.",
        ),
        total(increase(names.DENIALS_SUPPRESSED.name)),
        decimals=0,
    )


def _policies() -> Iterator[Panel]:
    links = (_policy_logs("${__field.labels.policy}"),)
    yield graph_panel(
        Card(
            201,
            "Denials by policy",
            "Denials per second. Dots are traces. A click on a series opens its log lines.",
        ),
        Query(queries.denials_by_policy(), "{{policy}}", exemplars=True),
        unit="reqps",
        links=links,
    )
    yield graph_panel(
        Card(
            202,
            "Denied share by policy and tier",
            "Fraction of the requests of each tier that the policy denied.",
        ),
        Query(queries.denied_share_by_tier(), "{{policy}} {{tier}}"),
        unit="percentunit",
        links=links,
    )
    yield graph_panel(
        Card(
            203,
            "Checks by outcome",
            "Checked requests per second by outcome. `exempt`: no policy applies to the request.",
            24,
        ),
        Query(queries.checks(names.OUTCOME), "{{outcome}}"),
        unit="reqps",
        stacked=True,
        colors=_OUTCOME_COLORS,
    )


def _routes() -> Iterator[Panel]:
    yield graph_panel(
        Card(301, "Denials by route", "Denials per second by route template."),
        Query(queries.denials_by(names.ROUTE), "{{route}}", exemplars=True),
        unit="reqps",
    )
    yield graph_panel(
        Card(
            302,
            "Denials by tier",
            "Denials per second by the caller's tier. `none`: the caller has no tier. `other`: no "
            "policy names the tier.",
        ),
        Query(queries.denials_by(names.TIER), "{{tier}}", exemplars=True),
        unit="reqps",
    )
    yield table_panel(
        Card(
            303,
            "Denials by policy, route and tier",
            "Denials in the time range. The cells link to the log lines of the policy.",
            24,
        ),
        _KEYS,
        Column("Denials", queries.denial_table(Outcome.DENIED), decimals=0),
        sort_by="Denials",
        links=(_policy_logs("${__data.fields.Policy}"),),
        no_data=NO_DENIALS,
    )


def _near_and_shadow() -> Iterator[Panel]:
    near, admitted = (
        total(rate(metric.name, SELECTED_POLICY), names.POLICY, names.TIER)
        for metric in (names.NEAR_LIMIT, names.ADMISSIONS)
    )
    yield graph_panel(
        Card(
            401,
            "Near the limit by policy and tier",
            "Fraction of the admitted requests of each tier that left 20 % or less of a limit. "
            "Callers that spend a limit of 5 from full to empty have 40 %, of 100 21 %.",
        ),
        Query(ratio(near, admitted), "{{policy}} {{tier}}"),
        unit="percentunit",
    )
    yield graph_panel(
        Card(
            402,
            "Shadow denials by policy",
            "Requests per second that a shadow policy would deny.",
        ),
        Query(queries.shadow_denials(names.POLICY), "{{policy}}"),
        unit="reqps",
        links=(_policy_logs("${__field.labels.policy}"),),
    )
    yield table_panel(
        Card(
            403,
            "Shadow denials by policy, route and tier",
            "Shadow denials in the time range.",
            24,
        ),
        _KEYS,
        Column("Denials", queries.denial_table(Outcome.SHADOW_DENIED), decimals=0),
        sort_by="Denials",
        links=(_policy_logs("${__data.fields.Policy}"),),
        no_data=NO_SHADOW_DENIALS,
    )


def _callers() -> Iterator[Panel]:
    caller = f"${{__field.labels.{CALLER}}}"
    lines = logs_url(f"{_LINKED_LINES} |= `{caller}` | json | {CALLER}=`{caller}`")
    for card, event in (
        (
            Card(
                501,
                "Most denied callers",
                "Callers with the most denials in the time range, including denials that were "
                "not logged one by one. A caller is shown as the hash that `/top`, `/explain` and "
                "the store's keys use.",
            ),
            names.LOG_DENIED,
        ),
        (
            Card(
                502,
                "Most shadow-denied callers",
                "Callers that shadow policies would deny most often, in the time range.",
            ),
            names.LOG_SHADOW_DENIED,
        ),
    ):
        yield log_bar_panel(
            card,
            Query(most_denied(event), f"{{{{policy}}}} {{{{{CALLER}}}}}"),
            links=(Link("Log lines of this caller", lines),),
            no_data=NO_LOGS,
        )
