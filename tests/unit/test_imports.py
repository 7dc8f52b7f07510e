"""Import graph of the package: no two modules import each other, directly or through others."""

from graphlib import CycleError, TopologicalSorter

import grimp


def test_modules_import_each_other_in_one_direction() -> None:
    """The graph has no cycle; imports inside functions count, those for type checkers do not."""
    graph = grimp.build_graph("fleetlimit", exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        _, cycle = error.args
        raise AssertionError(f"import cycle: {' <- '.join(cycle)}") from None
    assert len(imports) > 100
