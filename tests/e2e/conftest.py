"""The kind suite: the chart on a cluster of its own, under load, while things break.

`pytest tests/e2e` creates a cluster from deploy/kind/cluster.yaml, builds and loads the images of
deploy/kind/images.env (a variable of the environment goes before each), installs the chart and runs
the experiments; it takes Docker, kind, kubectl and helm. `--cluster NAME` takes a running cluster
and leaves it; `--keep-cluster` leaves the created one; `--no-build` takes the images as they are.
One experiment alone: `-k killed`, or by its number `-m 'experiment(number=2)'`. Figures, plots and
logs are in e2e-report/; e2e-report/index.html shows all of it.

Without a path below tests/e2e on the command line none of it is collected.
"""

import inspect
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from fleetlimit.telemetry.names import BUILD_INFO
from support import e2e_backends as backends
from support import e2e_cluster as kind
from support import e2e_timeouts as timeouts
from support.e2e_cluster import Cluster
from support.e2e_eventually import eventually
from support.e2e_observed import NAMESPACE, Story, live
from support.e2e_observed import values as observed_values
from support.e2e_page import Page
from support.e2e_prometheus import Prometheus
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_scene import values
from support.e2e_watch import Watch
from support.tool import ROOT, run

_NAME = "fleetlimit-e2e"
_PAGE = pytest.StashKey[Page]()
_TOOLS = ("docker", "kind", "kubectl", "helm")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suite."""
    group = parser.getgroup("e2e", "the suite on kind")
    group.addoption("--cluster", metavar="NAME", help="run on this kind cluster and leave it")
    group.addoption("--keep-cluster", action="store_true", help="leave the created cluster")
    group.addoption("--no-build", action="store_true", help="take the images as they are")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker that numbers the experiments."""
    config.addinivalue_line("markers", "experiment(number): one of the kind suite's experiments")


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave the suite out unless it was asked for by path."""
    asked = (Path(each.split("::")[0]).absolute() for each in config.invocation_params.args)
    here = Path(__file__).parent
    return None if any(path.is_relative_to(here) for path in asked) else True


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the page, whatever ended the run."""
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
    """Keep all that pods and events say of a failed experiment, and tell where."""
    found = yield
    proves = inspect.getdoc(getattr(item, "obj", None)) or ""
    message = "" if call.excinfo is None else call.excinfo.exconly(tryshort=True)
    _page(item.config).note(item.name, proves, found, message)
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
        config.stash[_PAGE] = Page(Report(ROOT / "e2e-report"))
    return config.stash[_PAGE]


@pytest.fixture(scope="session")
def page(pytestconfig: pytest.Config) -> Page:
    """What shows the run to a person."""
    return _page(pytestconfig)


@pytest.fixture(scope="session")
def report(page: Page) -> Report:
    """Where figures and logs go."""
    return page.report


@pytest.fixture(autouse=True)
def _shown(page: Page) -> Iterator[None]:
    """Show each experiment on the page as soon as all else of it is over."""
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
    """The values that the chart is installed with."""
    names = kind.images()
    return values(names["FLEETLIMIT_IMAGE"], names["VALKEY_IMAGE"])


@pytest.fixture(scope="session")
def release(
    cluster: Cluster, installed: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> Release:
    """The release that most experiments use."""
    found = Release(cluster, "default", tmp_path_factory.mktemp("values"))
    found.install(installed)
    return found


@pytest.fixture
def another_release(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[[str], Release]]:
    """Make a release in a namespace of its own, which is taken away after the experiment.

    It is not installed yet.
    """
    made: list[Release] = []

    def make(namespace: str) -> Release:
        made.append(Release(cluster, namespace, tmp_path))
        made[-1].create_namespace()
        return made[-1]

    yield make
    for each in made:
        each.uninstall()


@pytest.fixture(scope="session")
def observed(
    cluster: Cluster, installed: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    """A release with monitors and rules for Prometheus, which sends its traces to Jaeger."""
    backends.prepare(cluster)
    found = Release(cluster, NAMESPACE, tmp_path_factory.mktemp(NAMESPACE))
    found.create_namespace()
    try:
        found.install(installed, *observed_values())
        yield found
    finally:
        found.uninstall()


@pytest.fixture(scope="session")
def prometheus(observed: Release) -> Prometheus:
    """The Prometheus that scrapes all pods of that release."""
    backends.start_prometheus(observed.cluster)
    found = Prometheus(observed.cluster)
    pods = f'count({BUILD_INFO.name}{{namespace="{NAMESPACE}"}}) == 3'
    eventually(lambda: found.at(pods), within=timeouts.BACKEND, what="all pods are scraped")
    return found


@pytest.fixture(scope="session")
def story(observed: Release, prometheus: Prometheus, image: str, report: Report) -> Story:
    """What that release went through, told once to all tests that ask what was seen of it."""
    with Watch(observed, report.folder / "test_observed") as watching:
        return live(observed, prometheus, image, watching, report)


@pytest.fixture(scope="session")
def image() -> str:
    """The image of Fleetlimit."""
    return kind.images()["FLEETLIMIT_IMAGE"]


@pytest.fixture
def folder(report: Report, request: pytest.FixtureRequest) -> Path:
    """Folder for what an experiment leaves."""
    found: Path = report.folder / request.node.name
    shutil.rmtree(found, ignore_errors=True)
    found.mkdir(parents=True)
    return found


@pytest.fixture
def watch(release: Release, folder: Path) -> Iterator[Watch]:
    """The pods' counters and logs, from the start of the experiment."""
    with Watch(release, folder) as watching:
        yield watching
