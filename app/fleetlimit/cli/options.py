"""Options that several commands have, and the settings of each."""

from pathlib import Path
from typing import Annotated

import typer

StoreOption = Annotated[
    str | None, typer.Option(help="URL of the shared store, or memory://. [FLEETLIMIT_STORE]")
]
FactoryOption = Annotated[
    bool | None,
    typer.Option("--factory", help="The app is a function that creates it. [FLEETLIMIT_FACTORY]"),
]
PoliciesOption = Annotated[Path | None, typer.Option(help="Policy file. [FLEETLIMIT_POLICIES]")]
HELP_NAMES = {"help_option_names": ["-h", "--help"]}
"""Settings of a command group: click has no `-h` by itself."""
