"""The kind suite: the chart on its own cluster, under load, with injected faults.

`pytest tests/e2e` creates a cluster from deploy/kind/cluster.yaml, builds and loads the images of
deploy/kind/images.env (environment variables override them), installs the chart and runs the
experiments. It needs Docker, kind, kubectl and helm. `--cluster NAME` uses a running cluster and
keeps it; `--keep-cluster` keeps the created one; `--no-build` uses the existing images. To run one
experiment: `-k killed_pods`, or by its number `-m 'experiment(number=2)'`. Figures, plots and logs
are in `e2e-report/`, with `index.html` as the overview. Where the variable `HELM3` has the path of
Helm 3, the experiment of changed values also runs with it.

`--broken KIND` runs the experiments that measure the limit with a limiter that is broken on
purpose, and passes only if each of them finds more admitted requests than are promised.

pytest collects the suite only if the command line has a path below `tests/e2e`.
"""

import inspect
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from fleetlimit.telemetry.names import BUILD_INFO
from support import e2e_cluster as kind
from support import e2e_timeouts as timeouts
from support.e2e_broken import BROKEN, Breakage, works
from support.e2e_cluster import Cluster
from support.e2e_observed import NAMESPACE, FaultRun, run_with_faults
from support.e2e_observed import values as observed_values
from support.e2e_page import Page
from support.e2e_prometheus import Prometheus, install_backends, start_prometheus
from support.e2e_release import Release
from support.e2e_report import OvershootError, Report
from support.e2e_setup import values
from support.e2e_watch import Watch
from support.eventually import eventually
from support.helm import HELM
from support.tool import ROOT, run

_NAME = "fleetlimit-e2e"
_PAGE = pytest.StashKey[Page]()
_TOOLS = ("docker", "kind", "kubectl", "helm")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suite."""
    group = parser.getgroup("e2e", "the suite on kind")
    group.addoption("--cluster", metavar="NAME", help="run on this kind cluster and keep it")
    group.addoption("--keep-cluster", action="store_true", help="keep the created cluster")
    group.addoption("--broken", choices=[*BROKEN], help="expect the experiments to fail with this")
    group.addoption("--no-build", action="store_true", help="use the existing images")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers of the experiments."""
    for marker in (
        "experiment(number): one of the kind suite's experiments",
        "measured(*kinds): it measures the limit, so that these broken limiters, or all, fail it",
    ):
        config.addinivalue_line("markers", marker)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Run the experiments one after the other, in this process: they share the cluster."""
    return 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--broken`, run the experiments that a broken limiter must fail, and expect that."""
    broken = config.getoption("broken")
    if not broken:
        return
    reason = f"the limiter is broken: {broken}"
    mark = pytest.mark.xfail(raises=OvershootError, strict=True, reason=reason)
    kept: list[pytest.Item] = []
    for item in items:
        measured = item.get_closest_marker("measured")
        if measured is not None and broken in (measured.args or BROKEN):
            item.add_marker(mark)
            kept.append(item)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Ignore the suite unless the command line has its path."""
    requested = (Path(each.split("::")[0]).absolute() for each in config.invocation_params.args)
    here = Path(__file__).parent
    return None if any(path.is_relative_to(here) for path in requested) else True


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the page, also after an interrupted run."""
    page = session.config.stash.get(_PAGE, None)
    if page is not None:
        page.write()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table of experiments."""
    page = config.stash.get(_PAGE, None)
    if page is not None and page.report.runs:
        terminalreporter.section(f"experiments, see {page.report.folder / 'index.html'}")
        for line in page.report.table():
            terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Save logs and events of all pods after a failed experiment, and report the folder."""
    found = yield
    docstring = inspect.getdoc(getattr(item, "obj", None)) or ""
    message = "" if call.excinfo is None else call.excinfo.exconly(tryshort=True)
    _page(item.config).note(item.name, docstring, found, message)
    given = getattr(item, "funcargs", {})
    if found.failed:
        folder = _page(item.config).report.folder / item.name
        kept = f"figures and what the pods logged until the end: {folder}"
        if found.when == "call" and "cluster" in given:
            try:
                given["cluster"].dump(folder / "cluster")
            except (AssertionError, OSError) as error:
                kept += f"\nthe cluster's state could not be kept: {error}"
            else:
                kept += f"\nall pods, their logs and the events: {folder / 'cluster'}"
        found.sections.append(("logs", kept))
    return found


def _page(config: pytest.Config) -> Page:
    if _PAGE not in config.stash:
        folder = ROOT / "e2e-report"
        broken = config.getoption("broken")
        config.stash[_PAGE] = Page(Report(folder / f"broken-{broken}" if broken else folder))
    return config.stash[_PAGE]


@pytest.fixture(scope="session")
def page(pytestconfig: pytest.Config) -> Page:
    """Report page of the run."""
    return _page(pytestconfig)


@pytest.fixture(scope="session")
def report(page: Page) -> Report:
    """Report of the run."""
    return page.report


@pytest.fixture(autouse=True)
def _shown(page: Page) -> Iterator[None]:
    """Update the page after each experiment."""
    yield
    page.write()


@pytest.fixture(scope="session")
def cluster(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A cluster with the images on its nodes."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not on PATH: {', '.join(missing)}")
    try:
        run("docker", "info", timeout=timeouts.COMMAND)
    except AssertionError as error:
        pytest.skip(f"Docker does not answer: {error}")
    given = pytestconfig.getoption("cluster")
    folder = tmp_path_factory.mktemp("cluster")
    names = kind.images()
    if not pytestconfig.getoption("no_build"):
        kind.build(names)
    if not given:
        kind.create(_NAME, names["KIND_NODE_IMAGE"], folder / "created")
    try:
        found = Cluster(given or _NAME, folder / "kubeconfig")
        try:
            found.load_images(*kind.loaded(names))
            yield found
        finally:
            found.close()
    finally:
        if not given and not pytestconfig.getoption("keep_cluster"):
            kind.delete(_NAME, folder / "created")


@pytest.fixture(scope="session")
def installed() -> dict[str, object]:
    """Values of the chart for all releases."""
    names = kind.images()
    return values(names["FLEETLIMIT_IMAGE"], names["VALKEY_IMAGE"])


@pytest.fixture(scope="session")
def breakage(pytestconfig: pytest.Config) -> Breakage:
    """Breakage of all releases: none without `--broken`."""
    return BROKEN.get(pytestconfig.getoption("broken"), works)


@pytest.fixture(scope="session")
def release(
    cluster: Cluster,
    installed: dict[str, object],
    breakage: Breakage,
    tmp_path_factory: pytest.TempPathFactory,
) -> Release:
    """Release of most experiments."""
    found = Release(cluster, "default", tmp_path_factory.mktemp("values"), breakage)
    found.install(installed)
    return found


@pytest.fixture
def another_release(
    cluster: Cluster, breakage: Breakage, tmp_path: Path
) -> Iterator[Callable[..., Release]]:
    """Factory for a release in a new namespace, not yet installed.

    Release and namespace are deleted after the experiment.
    """
    made: list[Release] = []

    def make(namespace: str, breakage: Breakage = breakage, binary: str = HELM) -> Release:
        made.append(Release(cluster, namespace, tmp_path, breakage, binary))
        made[-1].create_namespace()
        return made[-1]

    yield make
    for each in made:
        each.uninstall()
    for each in made:
        each.wait_until_deleted()


@pytest.fixture(scope="session")
def observed(
    cluster: Cluster,
    installed: dict[str, object],
    breakage: Breakage,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Release]:
    """Release with monitors and rules for Prometheus, and with traces in Jaeger."""
    install_backends(cluster)
    found = Release(cluster, NAMESPACE, tmp_path_factory.mktemp(NAMESPACE), breakage)
    found.create_namespace()
    try:
        found.install(installed, *observed_values())
        yield found
    finally:
        found.uninstall()
        found.wait_until_deleted()


@pytest.fixture(scope="session")
def prometheus(observed: Release) -> Prometheus:
    """Prometheus that scrapes all pods of the `observed` release."""
    start_prometheus(observed.cluster)
    found = Prometheus(observed.cluster)
    pods = f'count({BUILD_INFO.name}{{namespace="{NAMESPACE}"}}) == 3'
    eventually(lambda: found.at(pods), within=timeouts.BACKEND, what="all pods are scraped")
    return found


@pytest.fixture(scope="session")
def faults(observed: Release, prometheus: Prometheus, image: str, report: Report) -> FaultRun:
    """Faults of the `observed` release, run once for all tests of their observations."""
    with Watch(
        observed, report.folder / "test_prometheus_has_the_counts_of_the_clients"
    ) as watching:
        return run_with_faults(observed, prometheus, image, watching, report)


@pytest.fixture(scope="session")
def image() -> str:
    """The image of Fleetlimit."""
    return kind.images()["FLEETLIMIT_IMAGE"]


@pytest.fixture
def folder(report: Report, request: pytest.FixtureRequest) -> Path:
    """Folder for the files of an experiment."""
    found: Path = report.folder / request.node.name
    shutil.rmtree(found, ignore_errors=True)
    found.mkdir(parents=True)
    return found


@pytest.fixture
def watch(release: Release, folder: Path) -> Iterator[Watch]:
    """Observer of the pods, from the start of the experiment."""
    with Watch(release, folder) as watching:
        yield watching
