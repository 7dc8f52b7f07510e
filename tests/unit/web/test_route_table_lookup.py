"""Route table: the route that a method and a path match."""

import pytest
from starlette.routing import Route

from fleetlimit.web.route_info import UNMATCHED, RouteInfo
from fleetlimit.web.route_scan import iter_nodes
from fleetlimit.web.route_table import RouteTable


def test_route_table_matches_method_and_path() -> None:
    """A table matches by method and path, else by path alone, else not at all."""
    get, post = (
        RouteInfo("/a", frozenset({"GET"}), ("limit",)),
        RouteInfo("/a", frozenset({"POST"})),
    )
    any_method, socket = RouteInfo("/b/{x}"), RouteInfo("/ws", frozenset({"WEBSOCKET"}))
    table = RouteTable([get, post, any_method, socket])
    assert table.match("POST", "/a") is post
    assert table.match("PUT", "/a") == RouteInfo("/a", frozenset({"GET"}))
    assert table.match("WEBSOCKET", "/a") is UNMATCHED
    assert table.match("PUT", "/b/1") is any_method
    assert table.match("WEBSOCKET", "/ws") is socket
    assert table.match("GET", "/b/1/2") is UNMATCHED
    assert table.match("GET", "") is UNMATCHED


@pytest.mark.parametrize(
    ("methods", "name"),
    [("GET HEAD", "GET /a"), ("PUT GET", "GET,PUT /a"), ("HEAD", "HEAD /a"), ("", "ANY /a")],
)
def test_route_name_is_methods_and_template(methods: str, name: str) -> None:
    """A route is named by its methods, HEAD as a part of GET, and its template."""
    assert RouteInfo("/a", frozenset(methods.split())).name == name


def test_route_without_a_path_is_left_out() -> None:
    """A route object without a path is left to the default policy."""

    class Odd(Route):
        def __init__(self) -> None:
            self.path = ""

    assert list(iter_nodes([Odd()])) == []
